"""LightningModules, one for each published model: what its paper fixes of `VideoCompressionTask`."""

from dataclasses import replace

import torch
from torch import Tensor

from ..blocks.motion import warp
from ..codec.picture import CodedFrame
from ..gop import FramePlan, FrameType, GopStructure, LowDelay, RandomAccess
from . import schedules
from .losses import warping_error
from .starting_point import measure_blocks, start_transform
from .video import ClipSource, VideoCompressionTask, Work, load_codec

TWO_B_REFERENCES = 9
"""Frames of the shortest clip in which a B frame lies between two others."""
FRAME_WEIGHTS = (0.5, 1.2, 0.5, 0.9)
"""w of four P frames in cycles (DCVC-DC, L-STEC)."""


class IntraTask(VideoCompressionTask):
    """Trains the intra network of any codec on single frames (DCVC-DC, arXiv 2302.14402; DCVC-TCM, arXiv 2111.13850).

    See `VideoCompressionTask` for the arguments; every codec's `variant` will do.
    """

    trained = FrameType.I
    default_variant = "dcvc-dc-intra"
    default_stages = schedules.INTRA

    def structure(self, num_frames: int) -> GopStructure:
        """Every frame on its own."""
        return LowDelay(1)

    def measured_structure(self, num_frames: int) -> GopStructure:
        """Every frame on its own, whatever the codec."""
        return LowDelay(1)

    def start_fresh(self) -> None:
        """Start the linear shortcut at the principal components of training blocks."""
        if hasattr(self.network, "transform"):
            start_transform(self.network, measure_blocks(self.trainer, lambda clip: clip.flatten(0, 1) - 0.5))


class BiECVCTask(VideoCompressionTask):
    """Trains the B-frame network of BiECVC with its intra network frozen (arXiv 2505.09193, Sec. 4.1).

    See `VideoCompressionTask` for the arguments; `frame_weights` are w_k of the layers from the top.
    """

    trained = FrameType.B
    default_variant = "biecvc"
    default_stages = schedules.BIECVC
    default_frame_weights = (1.4, 1.4, 0.7, 0.5, 0.5)
    observed = ("motion.estimator",)

    def structure(self, num_frames: int) -> GopStructure:
        """One tree between the clip's ends."""
        period = num_frames - 1
        if period < 2 or period & (period - 1):
            raise ValueError(f"clips have {num_frames} frames, expected one more than a power of two: 3, 5, 9, 17, 33")
        return RandomAccess(period)

    def measured_structure(self, num_frames: int) -> GopStructure:
        """The longest tree of at most 32 frames that the clip holds."""
        return RandomAccess(min(32, 1 << max((num_frames - 1).bit_length() - 1, 0)))

    def plans(self, num_frames: int, stride: int) -> list[FramePlan]:
        """CHOICE: layers as in a GOP of 32, where neighbours are layer 5: a short clip trains deep layers too."""
        shift = max(5 - (stride * (num_frames - 1)).bit_length() + 1, 0)
        return [
            replace(plan, layer=plan.layer + shift) if plan.layer else plan
            for plan in super().plans(num_frames, stride)
        ]

    def weight_of(self, plan: FramePlan) -> float:
        """By temporal layer, the last weight repeated."""
        return self.frame_weights[min(plan.layer, len(self.frame_weights)) - 1]

    def auxiliary_error(self, frame: CodedFrame, work: Work) -> Tensor | float:
        """Error of the warped source references, by estimated and by decoded flows."""
        if not work.stage.warp_weight:
            return 0.0
        estimated = work.seen["motion.estimator"][-2:]
        errors = [source_warping_error(frame, work.clip, flows) for flows in (estimated, frame.motion)]
        return work.stage.warp_weight * (errors[0] + errors[1]) / 2

    def start_fresh(self) -> None:
        """Start linear shortcuts at the principal components of the flows, and of what interpolation leaves."""
        if not hasattr(self.network, "transform"):
            return
        motion = self.network.get_submodule("motion")
        has_motion = hasattr(motion, "transform")

        def flows(clip: Tensor) -> Tensor:
            x = clip[:, 1:-1].flatten(0, 1)
            sides = (clip[:, :-2].flatten(0, 1), clip[:, 2:].flatten(0, 1))
            with torch.no_grad():
                return torch.cat([motion.get_submodule("estimator")(x, side) for side in sides], dim=1)

        def residual(clip: Tensor) -> Tensor:
            past, future = clip[:, :-2].flatten(0, 1), clip[:, 2:].flatten(0, 1)
            if has_motion:
                flow = flows(clip)
                past, future = warp(past, flow[:, :2]), warp(future, flow[:, 2:])
            return clip[:, 1:-1].flatten(0, 1) - (past + future) / 2

        if has_motion:
            start_transform(motion, measure_blocks(self.trainer, flows))
        start_transform(self.network, measure_blocks(self.trainer, residual))


class LowDelayTask(VideoCompressionTask):
    """What P-frame codecs share: one chain a clip, weights in cycles."""

    trained = FrameType.P

    def structure(self, num_frames: int) -> GopStructure:
        """P frames after the first."""
        return LowDelay()

    def plans(self, num_frames: int, stride: int) -> list[FramePlan]:
        """CHOICE: from step to step a clip starts at another place of the weights' cycle.

        Otherwise four P frames would never meet the adaptor of the fifth.
        """
        phase = self.global_step % len(self.frame_weights)
        return [
            replace(plan, position=plan.position + phase) if plan.position else plan
            for plan in super().plans(num_frames, stride)
        ]

    def weight_of(self, plan: FramePlan) -> float:
        """By position in the GOP. CHOICE: the first P frame has the first weight."""
        return self.frame_weights[(plan.position - 1) % len(self.frame_weights)]

    def auxiliary_error(self, frame: CodedFrame, work: Work) -> Tensor | float:
        """Error of the warped source reference, by the decoded flow."""
        if not work.stage.warp_weight:
            return 0.0
        return work.stage.warp_weight * source_warping_error(frame, work.clip, frame.motion)

    def start_fresh(self) -> None:
        """Start linear shortcuts at the principal components of the flow, and of what warping by it leaves."""
        motion = self.network.get_submodule("motion")
        if not hasattr(motion, "transform"):
            return
        estimator = motion.get_submodule("estimator")

        def flow(clip: Tensor) -> Tensor:
            with torch.no_grad():
                estimated: Tensor = estimator(clip[:, 1:].flatten(0, 1), clip[:, :-1].flatten(0, 1))
                return estimated

        def residual(clip: Tensor) -> Tensor:
            return clip[:, 1:].flatten(0, 1) - warp(clip[:, :-1].flatten(0, 1), flow(clip))

        start_transform(motion, measure_blocks(self.trainer, flow))
        start_transform(self.network, measure_blocks(self.trainer, residual))


class LSTECTask(LowDelayTask):
    """Trains the P-frame network of L-STEC with its intra network frozen (arXiv 2512.12790, Eq. 13 and 14).

    See `VideoCompressionTask` for the arguments. With the "stored" hidden state the recurrent cells get a gradient only
    where it passes over two P frames, since what they make in one frame is used two frames later.
    """

    default_variant = "lstec"
    default_stages = schedules.LSTEC
    default_frame_weights = FRAME_WEIGHTS


class DCVCDCTask(LowDelayTask):
    """Trains the P-frame network of DCVC-DC with its intra network frozen (arXiv 2302.14402, Sec. 4.1).

    See `VideoCompressionTask` for the arguments.
    """

    default_variant = "dcvc-dc"
    default_stages = schedules.FAMILY
    default_frame_weights = FRAME_WEIGHTS


class DCVCTCMTask(LowDelayTask):
    """Trains the P-frame network of DCVC-TCM with its intra network frozen (arXiv 2111.13850, Sec. IV).

    One rate a model: the config's `intra.lambda_rd`, which `overrides` sets. All frames weigh alike.
    See `VideoCompressionTask` for the arguments.
    """

    default_variant = "dcvc-tcm"
    default_stages = schedules.FAMILY


def source_warping_error(frame: CodedFrame, clip: Tensor, flows: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    """Squared error of source references warped by flows, the mean over the primary references, `(B,)`."""
    references = [clip[:, poc] for poc in frame.plan.references[: len(flows)] if poc is not None]
    return warping_error(references, flows, clip[:, frame.plan.poc])


__all__ = [
    "BiECVCTask",
    "ClipSource",
    "DCVCDCTask",
    "DCVCTCMTask",
    "IntraTask",
    "LSTECTask",
    "VideoCompressionTask",
    "load_codec",
]
