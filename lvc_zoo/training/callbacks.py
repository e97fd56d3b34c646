"""Callbacks of a training run."""

from pathlib import Path

import lightning as L
import torch

from .tasks import VideoCompressionTask


class ExportCodec(L.Callback):
    """Writes the trained codec as a folder that `from_pretrained` reads, when a run ends.

    Args:
        folder: where; an earlier export is replaced.
        dtype: "float32", "float16" or "bfloat16", of the stored parameters.
    """

    def __init__(self, folder: str, dtype: str = "float32"):
        if dtype not in ("float32", "float16", "bfloat16"):
            raise ValueError(f"dtype is {dtype!r}, expected float32, float16 or bfloat16")
        self.folder = Path(folder)
        self.dtype: torch.dtype = getattr(torch, dtype)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the codec on the first process."""
        assert isinstance(pl_module, VideoCompressionTask)
        if trainer.is_global_zero:
            run = {"task": type(pl_module).__name__, "steps": trainer.global_step, **pl_module.hparams}
            pl_module.codec.save_pretrained(self.folder, dtype=self.dtype, metadata={"training": run})
