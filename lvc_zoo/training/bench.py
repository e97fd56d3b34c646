"""What training costs: frames a second and what limits them, and memory with and without activation checkpointing."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from rich.table import Table

from ..data.datamodules import ClipData
from ..data.footage import Footage, Group, Window
from ..models import codec_class
from . import tasks
from .command import quiet_trainer, recipe_cli
from .stages import Stage, total_steps
from .tasks import VideoCompressionTask

PARTS = ("data", "forward", "backward", "optimiser")
RECIPES = (".yaml", ".yml")
PROMPT_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Lets glibc give freed memory back at once; what it kept of the step before would hide the peak of the next."""
WARM_UP = 2
"""Steps before those that count."""


@dataclass(frozen=True, slots=True)
class TrainingSpeed:
    """Throughput of training steps.

    Attributes:
        batch_size: clips of a step.
        num_frames: of a clip.
        crop: side in pixels.
        step_s: seconds a step, the median.
        frames_per_s: source frames that pass through a step, in a second.
        shares: of a step's time, by part; the forward pass that checkpointing repeats counts as backward.
    """

    batch_size: int
    num_frames: int
    crop: int
    step_s: float
    frames_per_s: float
    shares: Mapping[str, float]

    @property
    def limit(self) -> str:
        """The part that takes most."""
        return max(self.shares, key=lambda part: self.shares[part])


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Memory of one training step beyond what lies there between two steps.

    Attributes:
        checkpointing: whether activations were computed again.
        peak_bytes: most of it, gradients included.
        bytes_per_pixel: a pixel of a trained frame of a clip.
        step_s: seconds of the step.
    """

    checkpointing: bool
    peak_bytes: int
    bytes_per_pixel: float
    step_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipShape:
    """The batches of a measurement; `crop` is a side in pixels."""

    batch_size: int = 4
    num_frames: int = 5
    crop: int = 64


class StepClock(Callback):
    """Seconds of each step by part: data, forward, backward, optimiser (clipping and logging are counted there)."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.shape: tuple[int, ...] = ()
        self._parts: dict[str, float] = {}
        self._last = time.perf_counter()

    def _add(self, part: str, trainer: L.Trainer) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._last
        self._last = now

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, *_: object) -> None:
        """The batch is there."""
        self._add("data", trainer)
        self.shape = tuple(batch.frames.shape)

    def on_before_backward(self, trainer: L.Trainer, *_: object) -> None:
        """A forward pass has ended; with chunks there are several."""
        self._add("forward", trainer)

    def on_after_backward(self, trainer: L.Trainer, *_: object) -> None:
        """A backward pass has ended."""
        self._add("backward", trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """The step has ended."""
        self._add("optimiser", trainer)
        self.steps.append(self._parts)
        self._parts = {}


class MemoryClock(Callback):
    """Bytes that the last step took beyond what was there before it."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.trained_pixels = 0
        self.step_s = 0.0
        self._before = 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, *_: object) -> None:
        """Start from here."""
        assert isinstance(pl_module, VideoCompressionTask)
        plans = pl_module.plans(batch.frames.shape[1], 1)
        count = sum(plan.frame_type is pl_module.trained for plan in plans)
        self.trained_pixels = batch.frames.shape[0] * count * batch.frames.shape[-1] * batch.frames.shape[-2]
        self._before = _memory_bytes(trainer.strategy.root_device, restart=True)
        self.step_s = -time.perf_counter()

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: object) -> None:
        """Forward and backward are done."""
        self.step_s += time.perf_counter()
        self.peak_bytes = _memory_bytes(trainer.strategy.root_device) - self._before


def _memory_bytes(device: torch.device, *, restart: bool = False) -> int:
    """The most that this process has held; `restart` makes what it holds now the most."""
    if device.type == "cuda":
        if restart:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        raise ValueError("peak memory of the CPU is read from /proc, which this system lacks; measure on Linux or CUDA")
    if restart:
        reset.write_text("5")  # sets the high-water mark to the present size, see man 5 proc
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


# ---- what is trained


@dataclass(frozen=True, slots=True)
class Texture(Footage):
    """Made frames, smooth and moving, that cost next to nothing to read."""

    def read(self, times: range, window: Window, random: np.random.Generator) -> np.ndarray:
        """See `Footage`."""
        y, x = np.mgrid[: window.height, : window.width]
        phase = random.random(3) * 6.3
        frames = [np.stack([np.sin(x / 9 + 0.2 * t + p) * np.cos(y / 7 - 0.1 * t) for p in phase], -1) for t in times]
        return (127.5 * (1 + np.stack(frames))).astype(np.uint8)


class TextureClips(ClipData):
    """Batches of made frames."""

    def training_groups(self) -> list[Group]:
        """See `ClipData`."""
        return [Group((Texture("texture", 1000, self.crop, self.crop),))]


def task_for(variant: str, stages: list[Stage], overrides: Mapping[str, Any]) -> VideoCompressionTask:
    """The untrained task of a variant.

    Args:
        variant: name of the codec.
        stages: its stage table.
        overrides: config entries of the codec.
    """
    name = codec_class(variant)[0].__name__
    task: VideoCompressionTask = getattr(tasks, TASKS[name])(variant=variant, stages=stages, overrides=dict(overrides))
    return task


TASKS = {
    "BiECVC": "BiECVCTask",
    "LSTEC": "LSTECTask",
    "DCVCDC": "DCVCDCTask",
    "DCVCTCM": "DCVCTCMTask",
    "DCVCDCIntra": "IntraTask",
    "DCVCTCMIntra": "IntraTask",
}


def _fit(task: VideoCompressionTask, data: ClipData, callback: Callback) -> None:
    trainer = L.Trainer(
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[callback],
    )
    with quiet_trainer():
        trainer.fit(task, datamodule=data)


# ---- measurements


def measure_speed(what: str, shape: ClipShape, overrides: Mapping[str, Any], steps: int = 10) -> TrainingSpeed:
    """Seconds of training steps by part.

    Args:
        what: path of a recipe, whose own data, stages and precision are taken, or a variant, trained on made frames.
        shape: clips of a variant.
        overrides: config entries of a variant.
        steps: number of steps that count; the median of each part is taken.

    Raises:
        ValueError: for a recipe too short to measure.
    """
    clock = StepClock()
    if what.endswith(RECIPES):
        limits = ["--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.limit_val_batches=0"]
        # its callbacks would write over what a run of the recipe has left
        limits += ["--trainer.enable_progress_bar=false", "--trainer.callbacks=null"]
        cli = recipe_cli(["--config", what, *limits], is_run=False)
        table = total_steps(cli.model.stages)
        if table <= WARM_UP:
            raise ValueError(f"the stages of {what} have {table} steps, expected more than {WARM_UP} to measure any")
        cli.trainer.fit_loop.epoch_loop.max_steps = min(WARM_UP + steps, table)
        cli.trainer.callbacks.append(clock)  # type: ignore[attr-defined]
        with quiet_trainer():
            cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    else:
        stage = Stage(name="bench", steps=WARM_UP + steps, num_frames=shape.num_frames, learning_rate=1e-6)
        _fit(task_for(what, [stage], overrides), _texture_clips(shape), clock)
    rows = clock.steps[WARM_UP:]
    parts = {part: median(row.get(part, 0.0) for row in rows) for part in PARTS}
    batch, frames, crop, total = clock.shape[0], clock.shape[1], clock.shape[-1], sum(parts.values())
    shares = {part: seconds / total for part, seconds in parts.items()}
    return TrainingSpeed(batch, frames, crop, total, batch * frames / total, shares)


def _texture_clips(shape: ClipShape) -> TextureClips:
    return TextureClips(["made"], batch_size=shape.batch_size, crop=shape.crop)


def measure_memory(variant: str, shape: ClipShape, overrides: Mapping[str, Any]) -> list[MemoryUse]:
    """Peak memory of a step without and with activation checkpointing, each in a process of its own.

    Args:
        variant: name of the codec.
        shape: of the batch.
        overrides: config entries of the codec.
    """
    request = {"variant": variant, "overrides": dict(overrides), **asdict(shape)}
    return [_measured_apart({**request, "checkpointing": checkpointing}) for checkpointing in (False, True)]


def _measured_apart(request: Mapping[str, Any]) -> MemoryUse:
    command = [sys.executable, "-m", __name__, json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **PROMPT_MALLOC})
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it was killed, most likely for want of memory"]
        raise ValueError(f"the step did not end ({reason[0]}); take fewer --frames or a smaller --size")
    return MemoryUse(**json.loads(done.stdout.splitlines()[-1]))


def measure_step(request: Mapping[str, Any]) -> MemoryUse:
    """Memory of the second of two training steps in this process; `request` as `measure_memory` makes it."""
    clock = MemoryClock()
    shape = ClipShape(**{name: request[name] for name in ("batch_size", "num_frames", "crop")})
    stage = Stage(
        name="bench",
        steps=2,
        num_frames=shape.num_frames,
        learning_rate=1e-6,
        checkpointing=request["checkpointing"],
    )
    _fit(task_for(request["variant"], [stage], request["overrides"]), _texture_clips(shape), clock)
    per_pixel = clock.peak_bytes / clock.trained_pixels
    return MemoryUse(request["checkpointing"], clock.peak_bytes, per_pixel, clock.step_s)


def measure_training(
    what: str, shape: ClipShape, overrides: Mapping[str, Any], speed: bool, memory: bool
) -> "TrainingReport":
    """Speed and memory of training, whichever is asked for.

    Args:
        what: a variant, or the path of a recipe, whose own clips and codec are taken.
        shape: clips of a variant.
        overrides: config entries of a variant.
        speed: see `measure_speed`.
        memory: see `measure_memory`.

    Raises:
        ValueError: for memory or overrides of a recipe, which says both itself, for a recipe too short to measure, or a
            step that does not fit into memory.
    """
    is_recipe = what.endswith(RECIPES)
    if is_recipe and (memory or overrides):
        raise ValueError(f"{what} is a recipe; --checkpointing and --set need the name of a variant")
    return TrainingReport(
        what,
        device_in_words(),
        measure_speed(what, shape, overrides) if speed else None,
        measure_memory(what, shape, overrides) if memory else (),
    )


# ---- report


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What was measured; None where it was not asked for.

    Attributes:
        what: recipe or variant.
        device: where, in words.
        speed: of steps.
        memory: without and with checkpointing.
    """

    what: str
    device: str
    speed: TrainingSpeed | None = None
    memory: Sequence[MemoryUse] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def tables(self) -> Iterator[Table | str]:
        """What a terminal shows."""
        if self.speed is not None:
            speed = self.speed
            yield (
                f"{self.what} on {self.device}: {speed.frames_per_s:.2f} frames/s, {speed.step_s:.3f} s a step of "
                f"{speed.batch_size} clips of {speed.num_frames} frames of {speed.crop}x{speed.crop}; "
                f"limited by {speed.limit}"
            )
            table = Table(*speed.shares)
            table.add_row(*(f"{100 * share:.1f} %" for share in speed.shares.values()))
            yield table
        if self.memory:
            yield f"{self.what} on {self.device}: memory of a training step beyond weights and moments"
            table = Table("checkpointing", "peak MB", "kB a pixel and trained frame", "seconds")
            for use in self.memory:
                cells = (f"{use.peak_bytes / 1e6:.1f}", f"{use.bytes_per_pixel / 1e3:.2f}", f"{use.step_s:.2f}")
                table.add_row("on" if use.checkpointing else "off", *cells)
            yield table


def device_in_words() -> str:
    """The device that training takes by default."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    print(json.dumps(asdict(measure_step(json.loads(sys.argv[1])))))
