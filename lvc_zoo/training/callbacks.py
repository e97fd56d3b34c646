"""Callbacks of a training run."""

import csv
import math
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..hub import check_replaceable
from ..machine import processor_name
from .stages import stage_at
from .tasks import VideoCompressionTask

_C = TypeVar("_C", bound=L.Callback)


class WeightAverage(L.Callback):
    """Keeps an exponential moving average (EMA) of the weights: what validation sees and what is exported.

    Args:
        decay: largest share of the old average that stays in a step; the first steps forget faster.
    """

    def __init__(self, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"decay of the weight average is {decay}, expected 0 <= decay < 1")
        self.decay = decay
        self.average: ModelEmaV3 | None = None
        self._stored: dict[str, Any] = {}  # of a checkpoint
        self._swapped: dict[str, Any] = {}  # the weights while the average stands in their place

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from the weights, or go on from those of the checkpoint."""
        assert isinstance(pl_module, VideoCompressionTask)
        self.average = ModelEmaV3(pl_module.network, decay=self.decay, use_warmup=True)
        if self._stored:
            self.average.module.load_state_dict(self._stored)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Take the new weights in."""
        assert self.average is not None
        assert isinstance(pl_module, VideoCompressionTask)
        self.average.update(pl_module.network, step=trainer.global_step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average in place of the weights."""
        average = self.state_dict().get("average", self._stored)
        if average:
            assert isinstance(pl_module, VideoCompressionTask)
            self._swapped = exchange(pl_module.network, average)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the weights back."""
        if self._swapped:
            assert isinstance(pl_module, VideoCompressionTask)
            pl_module.network.load_state_dict(self._swapped)
            self._swapped = {}

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def state_dict(self) -> dict[str, Any]:
        """The average, for the checkpoint."""
        return {} if self.average is None else {"average": self.average.module.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the average of a checkpoint."""
        self._stored = state_dict.get("average", {})


def averaged_network(trainer: L.Trainer) -> nn.Module | None:
    """The moving average of the trained network, where a `WeightAverage` runs."""
    for callback in callbacks_of(trainer, WeightAverage):
        if callback.average is not None:
            network: nn.Module = callback.average.module
            return network
    return None


def callbacks_of(trainer: L.Trainer, kind: type[_C]) -> list[_C]:
    """The trainer's callbacks of a kind."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, kind)]


def exchange(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Load a state into a network; gives a copy of the one that it replaces."""
    replaced = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(state)
    return replaced


class RunCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, whose "last" is also that of the run's end, not only of the last interval.

    See there for the arguments.
    """

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write it."""
        super().on_train_end(trainer, pl_module)
        if self.save_last and self.dirpath is not None:
            trainer.save_checkpoint(Path(self.dirpath) / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}")


class ExportCodec(L.Callback):
    """Writes the trained codec as a folder that `from_pretrained` reads: the averaged weights where there are any.

    Its config.json tells what was run, and before that what the weights to start from had been through; the curve of a
    `TrainingCurve` that has been drawn goes into the folder too.

    Args:
        folder: where; an earlier export is replaced.
        dtype: "float32", "float16" or "bfloat16", of the stored parameters.
        every_n_steps: export on the way too; 0 only at the end.
    """

    def __init__(self, folder: str, dtype: str = "float32", every_n_steps: int = 0):
        if dtype not in ("float32", "float16", "bfloat16"):
            raise ValueError(f"dtype is {dtype!r}, expected float32, float16 or bfloat16")
        self.folder = Path(folder)
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.every_n_steps = every_n_steps
        self._seconds = 0.0  # of the run up to the checkpoint that it goes on from
        self._started = math.nan

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a folder that could not be replaced at the end."""
        check_replaceable(self.folder)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the time."""
        self._started = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Save every so often."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._export(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the codec on the first process."""
        self._export(trainer, pl_module)

    def _export(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, VideoCompressionTask)
        if not trainer.is_global_zero:
            return
        codec = pl_module.codec
        earlier = codec.metadata.get("training", [])
        history = [*(earlier if isinstance(earlier, list) else [earlier]), self._record(trainer, pl_module)]
        curves = [curve.picture for curve in callbacks_of(trainer, TrainingCurve)]
        average = averaged_network(trainer)
        trained = {} if average is None else exchange(pl_module.network, average.state_dict())
        try:
            codec.save_pretrained(
                self.folder,
                dtype=self.dtype,
                metadata={"training": history},
                pictures=[curve for curve in curves if curve.exists()],
            )
        finally:
            if trained:
                pl_module.network.load_state_dict(trained)

    def _record(self, trainer: L.Trainer, task: VideoCompressionTask) -> dict[str, Any]:
        """What a reader of the weights wants to know of the run, JSON-ready."""
        device = trainer.strategy.root_device
        datamodule: Any = getattr(trainer, "datamodule", None)
        data = {} if datamodule is None else {"datamodule": type(datamodule).__name__, **_plain(datamodule.hparams)}
        return {
            "task": type(task).__name__,
            "steps": trainer.global_step,
            **_plain(task.hparams),
            "data": data,
            "average": [average.decay for average in callbacks_of(trainer, WeightAverage)],
            "precision": str(trainer.precision),
            "seconds": round(self._spent()),
            "processes": trainer.world_size,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        }

    def _spent(self) -> float:
        return self._seconds + (0.0 if math.isnan(self._started) else time.monotonic() - self._started)

    def state_dict(self) -> dict[str, Any]:
        """The time spent, for the checkpoint."""
        return {"seconds": self._spent()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._seconds = state_dict["seconds"]


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters without those that LightningCLI adds for itself."""
    return {key: value for key, value in settings.items() if not key.startswith("_")}


class StreamWriter(L.Callback):
    """Writes what prediction gives: a file `LABEL.qNN.lvc` for each clip and anchor; see `WholeClips.labels`.

    Args:
        folder: for them; files of the same names are replaced.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: object
    ) -> None:
        """Write the streams of a batch."""
        assert isinstance(pl_module, VideoCompressionTask)
        clips: Any = trainer.predict_dataloaders
        name = clips.dataset.labels[batch_idx]
        self.folder.mkdir(parents=True, exist_ok=True)
        for anchor, stream in enumerate(outputs[0]):
            (self.folder / f"{name}.q{round(pl_module.anchor_q(anchor)):02}.lvc").write_bytes(stream)


class NaNGuard(L.Callback):
    """Drops gradients that are not finite, so that the step changes no weight and no moment; counts and explains them.

    The step is run again with hooks, which name the first module that went wrong. With several processes the gradients
    have been summed and the step is not repeated; the first parameter with a bad gradient is named instead.

    `train/gradient_norm` is the norm before clipping: after it, a gradient that explodes cannot be told from others.

    Args:
        give_up_after: so many bad steps one after the other end the run.

    Attributes:
        skipped: number of dropped steps of this run, also logged as `train/skipped_steps`.
    """

    def __init__(self, give_up_after: int = 50):
        if give_up_after < 1:
            raise ValueError(f"give_up_after is {give_up_after}, expected at least one step")
        self.give_up_after = give_up_after
        self.skipped = 0
        self._in_a_row = 0
        self._batch: Any = None

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, *_: object) -> None:
        """Keep the batch for an explanation."""
        self._batch = batch

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the gradients, drop them where one is not finite."""
        norm = float(torch.nn.utils.get_total_norm(p.grad for p in pl_module.parameters() if p.grad is not None))
        if math.isfinite(norm):
            self._in_a_row = 0
        else:
            self._skip(trainer, pl_module)
        pl_module.log("train/skipped_steps", float(self.skipped))
        pl_module.log("train/gradient_norm", norm)

    def _skip(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, VideoCompressionTask)
        self.skipped += 1
        self._in_a_row += 1
        culprit = _bad_gradient(pl_module) if trainer.world_size > 1 else first_bad_module(pl_module, self._batch)
        for parameter in pl_module.parameters():
            parameter.grad = None
        told = f"step {trainer.global_step} is skipped, its gradients are not finite: {culprit}"
        if self._in_a_row >= self.give_up_after:
            raise RuntimeError(
                f"{told}; so were all of the last {self._in_a_row} steps; go on from an earlier checkpoint with a "
                "lower learning rate, or in precision 32-true"
            )
        warnings.warn(told, stacklevel=2)

    def state_dict(self) -> dict[str, Any]:
        """The count, for the checkpoint."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped = state_dict["skipped"]


class _Found(Exception):  # noqa: N818 - not an error, it ends the search
    """What the search for the first bad module found."""


def first_bad_module(task: VideoCompressionTask, batch: Any) -> str:
    """In words, where the forward and backward pass of a batch first gives values that are not finite.

    Args:
        task: the task, whose gradients are used up.
        batch: the batch.
    """
    if not _is_finite(batch):
        return "the batch holds such values"
    for name, value in task.codec.state_dict().items():
        if not _is_finite(value):
            return f"the weights {name} hold such values"
    handles = list(_watch(task.codec))
    try:
        task.backpropagate(batch)
    except _Found as found:
        return str(found)
    finally:
        for handle in handles:
            handle.remove()
    return "no module's output or gradient is, only the sum over the batch"


def _watch(codec: nn.Module) -> Iterator[Any]:
    """Hooks that end a pass at the first bad output (deepest module first) or gradient (nearest to the loss first)."""

    def look(output: Any, what: str) -> None:
        if not _is_finite(output):
            raise _Found(what)

    for name, module in codec.named_modules():
        yield module.register_forward_hook(lambda _m, _i, output, name=name: look(output, f"the output of {name}"))
    for name, parameter in codec.named_parameters():
        if parameter.requires_grad:
            yield parameter.register_post_accumulate_grad_hook(
                lambda p, name=name: look(p.grad, f"the gradient of {name}")
            )


def _is_finite(values: Any) -> bool:
    """Whether all tensors in nested tuples and lists are."""
    if isinstance(values, Tensor):
        return not values.is_floating_point() or bool(values.isfinite().all())
    return not isinstance(values, (tuple, list)) or all(_is_finite(value) for value in values)


def _bad_gradient(task: VideoCompressionTask) -> str:
    named = ((name, p.grad) for name, p in task.codec.named_parameters())
    return f"the gradient of {next(name for name, gradient in named if not _is_finite(gradient))}"


class StageProgress(RichProgressBar):
    """A bar over the whole run, resumed or not, that names the stage; Lightning's own counts what an epoch has left."""

    @property
    def total_train_batches(self) -> int | float:
        """Steps of the run, those before a resumed one among them."""
        steps = self.trainer.fit_loop.max_steps
        return super().total_train_batches if steps < 0 else steps

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Say which stage it is."""
        assert isinstance(pl_module, VideoCompressionTask)
        if self.progress is not None and self.train_progress_bar_id is not None:
            stage, _first = stage_at(pl_module.stages, trainer.global_step)
            self.progress.update(self.train_progress_bar_id, description=stage.name)


class TrainingCurve(L.Callback):
    """Keeps every logged number in `curve.csv` and draws loss, rates and qualities in `curve.png`.

    A resumed run drops the rows after its checkpoint and goes on from there.

    Args:
        folder: for both files.
        every_n_steps: distance of rows.
    """

    def __init__(self, folder: str, every_n_steps: int = 10):
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps is {every_n_steps}, expected at least 1")
        self.table = Path(folder) / "curve.csv"
        self.picture = self.table.with_suffix(".png")
        self.every_n_steps = every_n_steps
        self._columns: list[str] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the rows up to the checkpoint; begin anew without one."""
        if trainer.is_global_zero:
            self.table.parent.mkdir(parents=True, exist_ok=True)
            self.picture.unlink(missing_ok=True)
            rows = read_curve(self.table) if trainer.global_step and self.table.exists() else []
            rows = [row for row in rows if row["step"] <= trainer.global_step]
            self._columns = list(rows[0]) if rows else []
            self._rewrite(rows)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Add a row."""
        if trainer.is_global_zero and trainer.global_step % self.every_n_steps == 0:
            row = {"step": trainer.global_step, **{k: float(v) for k, v in trainer.callback_metrics.items()}}
            new = [name for name in row if name not in self._columns]
            if new:
                rows = read_curve(self.table)
                self._columns += new
                self._rewrite(rows)
            with self.table.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw."""
        if trainer.is_global_zero:
            draw_curve(read_curve(self.table), self.picture)

    def _rewrite(self, rows: Iterable[dict[str, float]]) -> None:
        partial = self.table.with_suffix(".csv.part")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows({k: v for k, v in row.items() if not math.isnan(v)} for row in rows)
        partial.replace(self.table)


def read_curve(table: str | Path) -> list[dict[str, float]]:
    """Rows of a `curve.csv`; nan where nothing was logged yet. A last row that a kill cut off is left out."""
    text = Path(table).read_text()
    whole = text[: text.rfind("\n") + 1]
    return [{k: float(v) if v else math.nan for k, v in row.items()} for row in csv.DictReader(whole.splitlines())]


def draw_curve(rows: list[dict[str, float]], picture: str | Path) -> None:
    """Draw loss, bits per pixel and PSNR over steps, each smoothed over a fiftieth of the run.

    Args:
        rows: of `read_curve`.
        picture: a .png file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), layout="constrained")
    canvas, window = FigureCanvasAgg(figure), max(len(rows) // 50, 1)
    kinds = ("loss", "bpp", "psnr_db")
    for axis, kind in zip(figure.subplots(len(kinds), sharex=True), kinds, strict=True):
        for name in (name for name in (rows[0] if rows else {}) if name.split("/")[-1].startswith(kind)):
            points = [(row["step"], row[name]) for row in rows if math.isfinite(row[name])]
            means = [
                sum(value for _, value in points[max(i - window + 1, 0) : i + 1]) / min(i + 1, window)
                for i in range(len(points))
            ]
            axis.plot([step for step, _ in points], means, label=name)
        axis.set(ylabel=kind)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize="small")
    axis.set(xlabel="step")
    canvas.print_png(str(picture))
