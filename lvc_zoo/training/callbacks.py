"""Callbacks of a training run."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from timm.utils import ModelEmaV3
from torch import nn

from .tasks import VideoCompressionTask


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
        self._stored: dict[str, Any] = {}
        self._swapped: dict[str, Any] = {}

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
        if self.average is not None:
            assert isinstance(pl_module, VideoCompressionTask)
            self._swapped = {name: value.clone() for name, value in pl_module.network.state_dict().items()}
            pl_module.network.load_state_dict(self.average.module.state_dict())

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the weights back."""
        if self._swapped:
            assert isinstance(pl_module, VideoCompressionTask)
            pl_module.network.load_state_dict(self._swapped)
            self._swapped = {}

    def state_dict(self) -> dict[str, Any]:
        """The average, for the checkpoint."""
        return {} if self.average is None else {"average": self.average.module.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the average of a checkpoint."""
        self._stored = state_dict.get("average", {})


def averaged_network(trainer: L.Trainer) -> nn.Module | None:
    """The moving average of the trained network, where a `WeightAverage` runs."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAverage) and callback.average is not None:
            network: nn.Module = callback.average.module
            return network
    return None


class ExportCodec(L.Callback):
    """Writes the trained codec as a folder that `from_pretrained` reads: the averaged weights where there are any.

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
        average = averaged_network(trainer)
        trained = {name: value.clone() for name, value in pl_module.network.state_dict().items()}
        if average is not None:
            pl_module.network.load_state_dict(average.state_dict())
        run = {"task": type(pl_module).__name__, "steps": trainer.global_step, **pl_module.hparams}
        try:
            pl_module.codec.save_pretrained(self.folder, dtype=self.dtype, metadata={"training": run})
        finally:
            pl_module.network.load_state_dict(trained)
