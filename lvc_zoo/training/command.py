"""`lvc-zoo fit`: LightningCLI over the tasks and datamodules."""

from collections.abc import Sequence

import lightning as L
from lightning.pytorch.cli import LightningCLI

from ..data.datamodules import ClipFolders
from .tasks import VideoCompressionTask


def fit(arguments: Sequence[str]) -> None:
    """Train as a recipe says.

    Args:
        arguments: of LightningCLI behind `fit`, for example `["--config", "recipes/train/biecvc-tiny_smoke.yaml"]`.
    """
    LightningCLI(
        VideoCompressionTask,
        ClipFolders,
        subclass_mode_model=True,
        save_config_kwargs={"overwrite": True},
        args=["fit", *arguments],
        seed_everything_default=0,
        trainer_class=L.Trainer,
    )
