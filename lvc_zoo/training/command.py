"""`lvc-zoo fit`, `validate`, `test` and `predict`: LightningCLI over the tasks and datamodules."""

import inspect
import re
import warnings
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ..data.datamodules import ClipData
from ..errors import nearest_names
from ..metrics.distortion import MS_SSIM_SMALLEST_SIDE
from .callbacks import ExportCodec, NaNGuard, RunCheckpoint, StageProgress, StreamWriter, TrainingCurve, WeightAverage
from .pictures import RDPictures
from .tasks import TWO_B_REFERENCES, BiECVCTask, VideoCompressionTask

SUBCOMMANDS = tuple(LightningCLI.subcommands())
TOP_LEVEL = ("seed_everything", "model", "data", "trainer", "ckpt_path")
NOISE = r"Does not validate|Subtypes: |Errors:$|Expected a <class 'NoneType'>|Given value|ubclass|^ +- a |class_path"
"""Lines of jsonargparse's explanations that tell no user anything."""
HARMLESS = (
    r"`isinstance\(treespec, LeafSpec\)`",  # Lightning's own, under newer versions of PyTorch
    r".*does not have many workers",  # clips are cut from memory-mapped arrays
    ".*your dataloader is not resumable",  # ours begins at the trainer's step
    "Total length of `list` across ranks is zero",  # no validation is wanted
    "Using ModelCheckpoint with manual optimization",  # the state after a step is what a resumed run begins with
)


class _Started(Callback):
    """Remembers the step that training has come to; None before the first."""

    def __init__(self) -> None:
        self.step: int | None = None

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        self.step = trainer.global_step


class RecipeCLI(LightningCLI):
    """LightningCLI that checks a recipe before the first step and adds the callbacks that it leaves out."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse what `run` was given; Lightning's own method warns where the process has arguments too."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """CHOICE: the recipe alone says what runs; a checkpoint gives states, not settings."""

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The recipe's trainer with the default callbacks."""
        settings = self._get(self.config_init, "trainer")
        defaults = default_callbacks(settings)
        if self.subcommand is None:
            defaults = []
        elif self.subcommand != "fit":
            kept = (RunCheckpoint, WeightAverage, StreamWriter)
            defaults = [callback for callback in defaults if isinstance(callback, kept)]
        named = settings["callbacks"] or []
        settings["callbacks"] = [*(named if isinstance(named, list) else [named]), *defaults]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Refuse what would only fail later, or never."""
        check_recipe(self.model, self.datamodule, self.trainer)

    def before_validate(self) -> None:
        """Refuse to measure nothing, or what has learned nothing."""
        self._check_measured("val_folders")

    def before_test(self) -> None:
        """Refuse to measure nothing, or what has learned nothing."""
        self._check_measured("test_folders")

    before_predict = before_test

    def _check_measured(self, name: str) -> None:
        if not getattr(self.datamodule, name):
            raise ValueError(f"{self.subcommand} takes the clips of {name}, which are none; set data.init_args.{name}")
        checkpoint = self._get(self.config, "ckpt_path")
        if checkpoint is None and not self.model.hparams["weights"]:
            raise ValueError(
                f"{self.subcommand} would measure an untrained network; add --ckpt_path last (of this recipe's run), "
                "another checkpoint, or model.init_args.weights"
            )
        checkpoints = (c for c in self.trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint))
        folders = [Path(c.dirpath) for c in checkpoints if c.dirpath]
        if checkpoint == "last" and folders and not any(list(folder.glob("last*.ckpt")) for folder in folders):
            raise ValueError(
                f"ckpt_path is 'last', but {', '.join(map(str, folders))} has no last.ckpt; fit the recipe first, or "
                "set trainer.default_root_dir to where that was"
            )


def run(arguments: Sequence[str]) -> None:
    """Do what a recipe says.

    Args:
        arguments: subcommand and LightningCLI's arguments, for example
            `["fit", "--config", "recipes/train/biecvc-tiny_smoke.yaml"]`.

    Raises:
        ValueError: for a recipe that cannot run, in one sentence; also OSError and its like from what the recipe names.
        RuntimeError: where training stops after its first step.
    """
    started = _Started()
    try:
        with quiet_trainer():
            recipe_cli(arguments, callbacks=[started])
    except (ArgumentError, MisconfigurationException, OSError, ValueError) as error:
        if started.step is not None:
            raise RuntimeError(f"training stopped at step {started.step}: {error}") from error
        raise ValueError(shorten(str(error))) from error


@contextmanager
def quiet_trainer() -> Iterator[None]:
    """Keep back what Lightning warns of without need."""
    with warnings.catch_warnings():
        for message in HARMLESS:
            warnings.filterwarnings("ignore", message)
        yield


def recipe_cli(arguments: Sequence[str], *, is_run: bool = True, callbacks: Sequence[Callback] = ()) -> RecipeCLI:
    """LightningCLI over a recipe.

    Args:
        arguments: of LightningCLI; with a subcommand in front where `is_run`.
        is_run: run the subcommand; otherwise only build model, data and trainer, with no default callbacks.
        callbacks: to add to the recipe's.
    """
    quiet: dict[str, Any] = {"exit_on_error": False}
    return RecipeCLI(
        VideoCompressionTask,
        ClipData,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_callback=SaveConfigCallback if is_run else None,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        # an epoch is the whole stage table, and the data deals its batches to processes itself
        trainer_defaults={"max_epochs": -1, "use_distributed_sampler": False, "callbacks": list(callbacks)},
        parser_kwargs={"prog": "lvc-zoo", **quiet, **({name: dict(quiet) for name in SUBCOMMANDS} if is_run else {})},
        run=is_run,
        args=list(arguments),
    )


def default_callbacks(settings: Mapping[str, Any]) -> list[Callback]:
    """Callbacks that a recipe does not name, all writing below the run's folder.

    They are: a checkpoint every 500 steps, a weight average, a guard against steps that are not finite, the training
    curve, an export of the trained codec, pictures for TensorBoard, a progress bar, and for `predict` a writer of
    streams.

    Args:
        settings: of the trainer, with its `callbacks` as objects and `default_root_dir`.
    """
    root = settings.get("default_root_dir") or "."
    defaults: list[Callback] = [
        WeightAverage(),
        NaNGuard(),
        TrainingCurve(str(root)),
        ExportCodec(str(Path(root) / "weights")),
        RDPictures(),
        StreamWriter(str(Path(root) / "streams")),
    ]
    # Lightning counts False as none wanted
    if settings.get("enable_checkpointing") is not False:
        defaults.append(RunCheckpoint(dirpath=Path(root) / "checkpoints", every_n_train_steps=500, save_last=True))
    named = settings.get("callbacks") or ()
    if settings.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in named):
        defaults.append(StageProgress())
    kinds = [ModelCheckpoint if isinstance(default, ModelCheckpoint) else type(default) for default in defaults]
    pairs = zip(defaults, kinds, strict=True)
    return [default for default, kind in pairs if not any(isinstance(callback, kind) for callback in named)]


def check_recipe(task: VideoCompressionTask, data: ClipData, trainer: L.Trainer) -> None:
    """Refuse settings that do not fit together; warn of those that run, but not well.

    Raises:
        ValueError: for a batch that cannot hold the anchors equally often, or crops that do not suit codec or loss.
    """
    anchors, batch = len(task.codec.lambdas), data.batch_size * trainer.world_size
    if batch % anchors:
        raise ValueError(
            f"a batch of all processes holds {batch} clips, expected a multiple of {anchors}, so that it holds every "
            f"anchor of {task.codec.variant} equally often; set data.init_args.batch_size"
        )
    if data.crop % task.codec.pad_multiple:
        raise ValueError(
            f"crop is {data.crop}, expected a multiple of {task.codec.pad_multiple} for {task.codec.variant}; set "
            "data.init_args.crop"
        )
    if task.hparams.get("distortion") == "ms-ssim" and data.crop < MS_SSIM_SMALLEST_SIDE:
        raise ValueError(
            f"crop is {data.crop}, expected at least {MS_SSIM_SMALLEST_SIDE} pixels for the five scales of MS-SSIM; "
            "set data.init_args.crop to 192 or 256"
        )
    longest = max(stage.num_frames for stage in task.stages)
    if isinstance(task, BiECVCTask) and longest < TWO_B_REFERENCES and not task.hparams["weights"]:
        warnings.warn(
            f"the longest clips have {longest} frames, in which no frame has two B references; what only such frames "
            f"use stays untrained, and long GOPs suffer for it; add a stage of {TWO_B_REFERENCES} frames",
            stacklevel=2,
        )
    on_cpu = trainer.strategy.root_device.type == "cpu"
    if on_cpu and str(trainer.precision).startswith("bf16") and not has_bf16_instructions():
        warnings.warn(
            f"precision is {trainer.precision}, but this CPU has no bfloat16 instructions, which makes training about "
            "ten times slower; set trainer.precision to 32-true",
            stacklevel=2,
        )


def has_bf16_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU multiplies bfloat16; assumed where the system does not say."""
    if not cpuinfo.exists():
        return True
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(cpuinfo.read_text().split())


def shorten(message: str) -> str:
    """The one sentence in jsonargparse's explanation that tells what to mend; other messages stay as they are.

    Example:
        >>> shorten("Subcommand 'fit' does not accept option 'trainer.max_stepz'")
        "the recipe has an unknown key 'trainer.max_stepz'; the nearest are 'max_steps', 'max_time', 'min_steps'"
    """
    unknown = re.search(r"does not accept option '([\w.]+)'", message)
    if unknown:
        group, _, key = unknown[1].partition(".")
        near = nearest_names(key, _parameters(L.Trainer)) if group == "trainer" else nearest_names(group, TOP_LEVEL)
        return f"the recipe has an unknown key {unknown[1]!r}{near}"
    unknown = re.search(r"class_path '([\w.]+)':\s+Option '([\w.]+)' is not accepted", message)
    if unknown:
        module, _, name = unknown[1].rpartition(".")
        known = _parameters(getattr(import_module(module), name))
        return f"{name} has no setting {unknown[2]!r}{nearest_names(unknown[2], known)}"
    kept = [line.strip().removeprefix("- ") for line in message.splitlines() if not re.search(NOISE, line)]
    return " ".join(kept).replace("Parser key ", "the recipe's ")


def _parameters(what: type) -> Iterable[str]:
    return [name for name in inspect.signature(what).parameters if name != "self"]
