"""Training motion alone: the loop with everything but the motion codec left out.

CHOICE (stage 1 of the schedule in the reference sheet): flows of a fresh network are useless at first, and their rate
presses the motion latents to zero before they could become useful. So motion starts alone, on source pictures, and its
rate counts more and more.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..blocks.motion import warp
from ..codec.observe import observe
from ..codec.picture import FrameInfo, FrameNetwork, Picture
from ..codec.sequence import code_sequence
from ..codec.video import bits_by_part
from ..data.datasets import TrainingClip
from ..entropy.coder import LatentCoder
from ..gop import FramePlan, FrameType
from ..models.biecvc import BiECVCInter, BiECVCReference, fill_roles
from .tasks import BiECVCTask, ClipSource, squared_error


class MotionState(NamedTuple):
    """What the motion codec reads of a B reference; see `models.biecvc.BiECVCState`."""

    motion_y_hat: Tensor
    motion_feature: Tensor


class _SourceNetwork:
    """An I frame that costs nothing and is the source itself."""

    def reference(self, picture: Picture, plan: FramePlan) -> None:
        """Never asked."""

    def __call__(self, x: Tensor | None, references: tuple[Any, ...], coder: LatentCoder, info: FrameInfo) -> Picture:
        assert x is not None
        return Picture(x)


class _MotionNetwork:
    """A B frame whose motion is coded and whose picture is the source itself."""

    def __init__(self, network: BiECVCInter):
        self._motion = network.motion

    def reference(self, picture: Picture, plan: FramePlan) -> BiECVCReference:
        """The picture and its motion state."""
        return BiECVCReference(picture, [], [])

    def __call__(self, x: Tensor | None, references: tuple[Any, ...], coder: LatentCoder, info: FrameInfo) -> Picture:
        assert x is not None
        flows, y_hat, feature = self._motion.code(x, fill_roles(references), coder, info)
        return Picture(x, MotionState(y_hat, feature), (flows[:, :2], flows[:, 2:]))


class _MotionCodec:
    """What the loop needs of a codec."""

    def __init__(self, network: BiECVCInter):
        self._networks: dict[FrameType, FrameNetwork] = {
            FrameType.I: _SourceNetwork(),
            FrameType.B: _MotionNetwork(network),
        }

    def network(self, frame_type: FrameType) -> FrameNetwork:
        """By type."""
        return self._networks[frame_type]


class BiECVCMotionTask(BiECVCTask):
    """Trains flow estimation and the motion codec of BiECVC alone.

    The loss of a frame is `r * R_motion + lambda * D`, with D the mean error of the references warped by estimated and
    by decoded flows, and r rising from 0 to 1 over the first half of the run.
    """

    def training_step(self, batch: TrainingClip, batch_index: int) -> Tensor:
        """Loss of a batch; logs the motion's rate and the warping error in dB."""
        network = self.network
        assert isinstance(network, BiECVCInter)
        clip, anchors = batch.frames, len(self.codec.lambdas)
        rate = torch.arange(clip.shape[0], device=self.device) % anchors
        lambdas = torch.tensor(self.codec.lambdas, device=self.device)[rate]
        balance = (lambdas[0] * lambdas[anchors - 1]) ** 0.25 / lambdas.sqrt()
        ramp = min(1.0, 2 * self.global_step / max(int(self.trainer.estimated_stepping_batches), 1))
        pixels = clip.shape[-2] * clip.shape[-1]
        plans = self.plans(clip.shape[1], int(batch.stride[0]))
        losses, rates, errors = [], [], []
        with observe(network, "motion.estimator") as seen:
            coder_for = self.coder_for(self.global_rank * clip.shape[0])
            for frame in code_sequence(_MotionCodec(network), ClipSource(clip), plans, coder_for, rate.float()):
                if frame.plan.frame_type is not FrameType.B:
                    continue
                bpp = torch.stack(list(bits_by_part(frame).values())).sum(dim=0) / pixels
                error = warping_error(frame.plan, clip, seen["motion.estimator"][-2:])
                decoded = warping_error(frame.plan, clip, list(frame.motion))
                losses.append(balance * (ramp * bpp + lambdas * (error + decoded) / 2))
                rates.append(bpp.detach())
                errors.append(torch.stack([error, decoded]).detach())
        estimated_db, decoded_db = -10 * (torch.stack(errors).mean(dim=(0, 2)) / 3).log10()
        loss = torch.stack(losses).mean()
        self.log_dict({"train/loss": loss, "train/bpp": torch.stack(rates).mean()}, prog_bar=True)
        self.log_dict({"train/warped_db_estimated": estimated_db, "train/warped_db_decoded": decoded_db})
        return loss


def warping_error(plan: FramePlan, clip: Tensor, flows: list[Tensor]) -> Tensor:
    """Mean over both sides of the error of a source reference warped by its flow, `(B,)`."""
    x = clip[:, plan.poc]
    sides = zip(plan.references[:2], flows, strict=True)
    return torch.stack([squared_error(warp(clip[:, poc], flow.float()), x) for poc, flow in sides]).mean(dim=0)
