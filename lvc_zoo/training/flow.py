"""Training the flow network alone, on pairs of source frames."""

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from ..blocks.motion import SpyNet, upsample_flow, warp
from ..data.datasets import TrainingClip
from .tasks import load_codec


class FlowTask(L.LightningModule):
    """Trains the flow estimator of a codec without labels, before anything is coded with it.

    The loss is the absolute error of the warped reference at every size (half weight below the finest two) plus the
    total variation of the flow. CHOICE (stage 1 of the schedule in the reference sheet): flows of a fresh network are
    useless at first, and their rate would press them to zero before they could become useful.

    Args:
        variant: name of the codec.
        overrides: entries of the variant's config; its estimator must be "spynet".
        weights: weights to start from; None starts fresh.
        smoothness: weight of the total variation, a pixel.
        learning_rate: peak of the cosine schedule.
        warmup_steps: linear rise before it.
    """

    def __init__(
        self,
        variant: str = "biecvc",
        overrides: dict[str, Any] | None = None,
        weights: str | None = None,
        smoothness: float = 2e-3,
        learning_rate: float = 1e-3,
        warmup_steps: int = 100,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.codec = load_codec(variant, weights, overrides=overrides)
        self.codec.requires_grad_(False)
        assert self.codec.inter is not None
        estimator = self.codec.inter.get_submodule("motion.estimator")
        if not isinstance(estimator, SpyNet):
            raise ValueError(
                f"the flow estimator of {self.codec.variant} is {type(estimator).__name__}, which learns nothing, "
                "expected SpyNet; set estimator: spynet in overrides"
            )
        self.estimator = estimator.requires_grad_(True)

    def training_step(self, batch: TrainingClip, batch_index: int) -> Tensor:
        """Loss of a batch of pairs `(B, 2, 3, H, W)`; logs the PSNR of the warped reference."""
        pairs = batch.frames
        # every other pair backwards in time
        x = torch.cat([pairs[::2, 0], pairs[1::2, 1]]).contiguous(memory_format=torch.channels_last)
        reference = torch.cat([pairs[::2, 1], pairs[1::2, 0]]).contiguous(memory_format=torch.channels_last)
        flows = [flow.float() for flow in self.estimator.flows(x, reference)]
        loss = torch.zeros((), device=self.device)
        for i, flow in enumerate([*flows, upsample_flow(flows[-1])]):
            target, source = (F.interpolate(p, size=flow.shape[-2:], mode="area") for p in (x, reference))
            error = absolute_error(warp(source, flow), target)
            loss = loss + (1.0 if i >= len(flows) - 1 else 0.5) * error
            if i < len(flows):
                loss = loss + self.hparams["smoothness"] * total_variation(flow)
        warped = warp(reference, upsample_flow(flows[-1]).detach())
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/warped_psnr_db", -10 * (warped - x).square().mean().log10(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW, a warm-up and a cosine."""
        optimizer = torch.optim.AdamW(self.estimator.parameters(), lr=self.hparams["learning_rate"], weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.hparams["learning_rate"],
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=min(0.5, self.hparams["warmup_steps"] / int(self.trainer.estimated_stepping_batches)),
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def absolute_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean of a smooth absolute difference."""
    return ((a - b).square() + 1e-6).sqrt().mean()


def total_variation(flow: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring vectors, in pixels."""
    return flow.diff(dim=-1).abs().mean() + flow.diff(dim=-2).abs().mean()
