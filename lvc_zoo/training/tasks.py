"""LightningModules: a codec, its loss, and the loop that evaluation uses too."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from ..blocks.motion import warp
from ..codec.observe import observe
from ..codec.picture import CodedFrame
from ..codec.sequence import code_sequence
from ..codec.video import PARTS, VideoCodec, bits_by_part
from ..data.datasets import TrainingClip
from ..entropy.coder import Noise, RateEstimator
from ..entropy.distributions import FactorisedPrior
from ..gop import FramePlan, FrameType, GopStructure, LowDelay, RandomAccess
from ..models import create_model
from .starting_point import measure_blocks, start_transform


class ClipSource:
    """A batch of clips `(B, T, 3, H, W)` as the loop's source."""

    def __init__(self, clip: Tensor):
        self._clip = clip
        self.size = (clip.shape[-2], clip.shape[-1])

    def __call__(self, poc: int) -> Tensor:
        """The picture at `poc`, `(B, 3, H, W)`."""
        return self._clip[:, poc].contiguous(memory_format=torch.channels_last)


class VideoCompressionTask(L.LightningModule):
    """Rate-distortion training of one network of a codec through `code_sequence`.

    The loss is the mean over trained frames and samples of `R + w_k * lambda * D`, with D the squared error summed over
    RGB (samples in [0, 1]) and R in bits per pixel, divided by sqrt(lambda) relative to the anchors' middle.
    CHOICE: the division keeps the anchors in balance, and a batch holds every anchor equally often.

    Args:
        codec: the codec.
        trained: frame types whose network is trained; the others are frozen.
        structure: from clip length to the coding structure.
        learning_rate: peak of the cosine schedule.
        warmup_steps: linear rise before it.
        weight_decay: of AdamW.
        seed: of the noise that stands for rounding.
    """

    def __init__(
        self,
        codec: VideoCodec,
        trained: FrameType,
        structure: Callable[[int], GopStructure],
        learning_rate: float,
        warmup_steps: int,
        weight_decay: float,
        seed: int,
    ):
        super().__init__()
        self.codec = codec
        self.trained = trained
        self.structure = structure
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.weight_decay = weight_decay
        self.seed = seed
        codec.requires_grad_(False)
        self.network.requires_grad_(True)

    @property
    def network(self) -> nn.Module:
        """The network in training."""
        network = self.codec.network(self.trained)
        assert isinstance(network, nn.Module)
        return network

    def training_step(self, batch: TrainingClip, batch_index: int) -> Tensor:
        """Loss of a batch, frames `(B, T, 3, H, W)`; logs rate and quality."""
        clip = batch.frames
        anchors = len(self.codec.lambdas)
        if clip.shape[0] % anchors:
            raise ValueError(f"a batch of {clip.shape[0]} cannot hold {anchors} anchors equally often; use a multiple")
        rate = torch.arange(clip.shape[0], device=self.device) % anchors
        lambdas = torch.tensor(self.codec.lambdas, device=self.device)[rate]
        balance = (lambdas[0] * lambdas[anchors - 1]) ** 0.25 / lambdas.sqrt()
        first_sample = self.global_rank * clip.shape[0]

        losses, rates, errors = [], [], []
        parts: dict[str, list[Tensor]] = {part: [] for part in PARTS}
        pixels = clip.shape[-2] * clip.shape[-1]
        for frame in self._frames(clip, int(batch.stride[0]), rate.float(), first_sample):
            rate_bpp = {part: bits / pixels for part, bits in bits_by_part(frame).items()}
            bpp = torch.stack(list(rate_bpp.values())).sum(dim=0)
            for part, value in rate_bpp.items():
                parts[part].append(value.detach().mean())
            distortion = squared_error(frame.x_hat_raw, clip[:, frame.plan.poc])
            weight = self.weight_of(frame.plan)
            losses.append(balance * (bpp + weight * lambdas * (distortion + self.auxiliary_error(frame, clip))))
            rates.append(bpp.detach())
            errors.append(distortion.detach())
        loss = torch.stack(losses).mean()
        psnr_db = -10 * (torch.stack(errors) / 3).clamp(min=1e-10).log10()
        self.log("train/loss", loss, prog_bar=True)
        for part in (part for part in PARTS if parts[part]):
            self.log(f"train/bpp_{part}", torch.stack(parts[part]).mean())
        for anchor in range(anchors):
            self.log(f"train/bpp_{anchor}", torch.stack(rates)[:, rate == anchor].mean())
            self.log(f"train/psnr_db_{anchor}", psnr_db[:, rate == anchor].mean())
        return loss

    def _frames(self, clip: Tensor, stride: int, rate: Tensor, first_sample: int) -> Iterator[CodedFrame]:
        """The trained frames."""
        plans = self.plans(clip.shape[1], stride)
        for frame in code_sequence(self.codec, ClipSource(clip), plans, self.coder_for(first_sample), rate):
            if frame.plan.frame_type is self.trained:
                yield frame

    def coder_for(self, first_sample: int) -> Callable[[FramePlan], RateEstimator]:
        """Estimators with this step's noise; `first_sample` is the batch's first index in the global batch."""
        return lambda plan: RateEstimator(Noise(self.seed, self.global_step, first_sample, plan.poc))

    def plans(self, num_frames: int, stride: int) -> list[FramePlan]:
        """Plans of a training clip whose frames lie `stride` apart."""
        return self.structure(num_frames).plans(num_frames)

    def weight_of(self, plan: FramePlan) -> float:
        """The frame's weight w on its distortion."""
        return 1.0

    def auxiliary_error(self, frame: CodedFrame, clip: Tensor) -> Tensor | float:
        """A squared error that is added to the distortion, `(B,)`."""
        return 0.0

    def configure_optimizers(self) -> Any:
        """AdamW with a warm-up and a cosine to a hundredth of the peak; hyper densities learn ten times faster.

        CHOICE: their few parameters start far from any real spread; at the common rate they take thousands of steps.
        """
        priors = [m for m in self.network.modules() if isinstance(m, FactorisedPrior)]
        densities = list(dict.fromkeys(p for prior in priors for p in prior.parameters()))
        others = [p for p in self.network.parameters() if all(p is not d for d in densities)]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": densities, "lr": 10 * self.learning_rate}]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay)
        total = int(self.trainer.estimated_stepping_batches)
        warmup = min(self.warmup_steps, max(total // 2, 1))
        schedule = torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=warmup),
                torch.optim.lr_scheduler.CosineAnnealingLR(
                    optimizer, max(total - warmup, 1), eta_min=self.learning_rate / 100
                ),
            ],
            milestones=[warmup],
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def squared_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """D: squared error summed over colours, averaged over pixels, `(B,)` of `(B, 3, H, W)`."""
    return (x_hat.float() - x).square().sum(dim=1).mean(dim=(1, 2))


def load_codec(variant: str, weights: str | None) -> VideoCodec:
    """An untrained variant, or the one whose weights are named (bundled, folder or Hub)."""
    return VideoCodec.from_pretrained(weights).train() if weights else create_model(variant)


class IntraTask(VideoCompressionTask):
    """Trains the intra network of a codec on single frames (DCVC-DC, arXiv 2302.14402).

    Args:
        variant: name of the codec.
        weights: weights to start from; None starts fresh, a linear shortcut from the blocks of the first batches.
        learning_rate: peak.
        warmup_steps: linear rise.
        weight_decay: of AdamW.
        seed: of the noise.
    """

    def __init__(
        self,
        variant: str = "biecvc-tiny",
        weights: str | None = None,
        learning_rate: float = 6e-4,
        warmup_steps: int = 200,
        weight_decay: float = 0.0,
        seed: int = 0,
    ):
        codec = load_codec(variant, weights)
        super().__init__(codec, FrameType.I, lambda _: LowDelay(1), learning_rate, warmup_steps, weight_decay, seed)
        self.save_hyperparameters()

    def on_fit_start(self) -> None:
        """Start a fresh linear shortcut at the principal components of training blocks."""
        if self.hparams["weights"] is None and hasattr(self.network, "transform") and self.global_step == 0:
            start_transform(self.network, measure_blocks(self.trainer, lambda clip: clip.flatten(0, 1) - 0.5))


class BiECVCTask(VideoCompressionTask):
    """Trains the B-frame network of BiECVC with its intra network frozen (arXiv 2505.09193, Sec. 4.1).

    Args:
        variant: name of the codec.
        weights: a folder with at least a trained intra network.
        fresh: start the inter network anew, its linear shortcut from differences of neighbouring frames.
        learning_rate: peak.
        warmup_steps: linear rise.
        weight_decay: of AdamW.
        layer_weights: w_k of the paper for layers 1 to 5.
        warp_weight: of the error of warped references, by estimated and by decoded flows, added to D. It teaches
            motion from nothing; the last stages set it to 0.
        seed: of the noise.
    """

    def __init__(
        self,
        variant: str = "biecvc-tiny",
        weights: str | None = None,
        fresh: bool = False,
        learning_rate: float = 6e-4,
        warmup_steps: int = 200,
        weight_decay: float = 0.0,
        layer_weights: tuple[float, ...] = (1.4, 1.4, 0.7, 0.5, 0.5),
        warp_weight: float = 0.0,
        seed: int = 0,
    ):
        codec = load_codec(variant, weights)
        super().__init__(
            codec,
            FrameType.B,
            lambda frames: RandomAccess(frames - 1),
            learning_rate,
            warmup_steps,
            weight_decay,
            seed,
        )
        self.save_hyperparameters()

    def on_fit_start(self) -> None:
        """Start fresh linear shortcuts at the principal components of the flows, and of what interpolation leaves."""
        if not self.hparams["fresh"] or not hasattr(self.network, "transform") or self.global_step > 0:
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

    def training_step(self, batch: TrainingClip, batch_index: int) -> Tensor:
        """As the base class, keeping the estimated flows in reach."""
        with observe(self.network, "motion.estimator") as seen:
            self._estimated = seen["motion.estimator"]
            return super().training_step(batch, batch_index)

    def plans(self, num_frames: int, stride: int) -> list[FramePlan]:
        """CHOICE: layers as in a GOP of 32, where neighbours are layer 5: a short clip trains deep layers too."""
        shift = max(5 - (stride * (num_frames - 1)).bit_length() + 1, 0)
        return [
            replace(plan, layer=plan.layer + shift) if plan.layer else plan
            for plan in super().plans(num_frames, stride)
        ]

    def weight_of(self, plan: FramePlan) -> float:
        """By temporal layer, the last weight repeated."""
        weights: tuple[float, ...] = self.hparams["layer_weights"]
        return weights[min(plan.layer, len(weights)) - 1]

    def auxiliary_error(self, frame: CodedFrame, clip: Tensor) -> Tensor | float:
        """Error of the warped references, by estimated and by decoded flows."""
        weight = self.hparams["warp_weight"]
        if not weight:
            return 0.0
        estimated = warping_error(frame.plan, clip, self._estimated[-2:])
        return weight * (estimated + warping_error(frame.plan, clip, frame.motion)) / 2


class LSTECTask(VideoCompressionTask):
    """Trains the P-frame network of L-STEC with its intra network frozen (arXiv 2512.12790, Eq. 13 and 14).

    A batch's loss is cascaded over all P frames of its clips: with the "stored" hidden state the recurrent cells get no
    gradient otherwise, since what they make in one frame is used two frames later.

    Args:
        variant: name of the codec.
        weights: weights to start from; None starts fresh.
        intra: weights whose intra network is taken over; None keeps that of `weights`.
        fresh: start the linear shortcuts from what estimated motion leaves, and from the motion itself.
        learning_rate: peak.
        warmup_steps: linear rise.
        weight_decay: of AdamW.
        frame_weights: w_t of the P frames of a GOP, in cycles.
        warp_weight: of the error of the reference warped by the decoded flow, added to D; the last stages set it to 0.
        seed: of the noise.
    """

    def __init__(
        self,
        variant: str = "lstec-tiny",
        weights: str | None = None,
        intra: str | None = None,
        fresh: bool = False,
        learning_rate: float = 6e-4,
        warmup_steps: int = 200,
        weight_decay: float = 0.0,
        frame_weights: tuple[float, ...] = (0.5, 1.2, 0.5, 0.9),
        warp_weight: float = 0.0,
        seed: int = 0,
    ):
        codec = load_codec(variant, weights)
        if intra is not None:
            codec.intra.load_state_dict(VideoCodec.from_pretrained(intra).intra.state_dict())
        super().__init__(codec, FrameType.P, lambda _: LowDelay(), learning_rate, warmup_steps, weight_decay, seed)
        self.save_hyperparameters()

    def on_fit_start(self) -> None:
        """Start fresh linear shortcuts at the principal components of the flow, and of what warping by it leaves."""
        if not self.hparams["fresh"] or self.global_step > 0:
            return
        motion = self.network.get_submodule("motion")
        estimator = motion.get_submodule("estimator")

        def flow(clip: Tensor) -> Tensor:
            with torch.no_grad():
                estimated: Tensor = estimator(clip[:, 1:].flatten(0, 1), clip[:, :-1].flatten(0, 1))
                return estimated

        def residual(clip: Tensor) -> Tensor:
            return clip[:, 1:].flatten(0, 1) - warp(clip[:, :-1].flatten(0, 1), flow(clip))

        start_transform(motion, measure_blocks(self.trainer, flow))
        start_transform(self.network, measure_blocks(self.trainer, residual))

    def plans(self, num_frames: int, stride: int) -> list[FramePlan]:
        """CHOICE: from step to step a clip starts at another place of the weights' cycle.

        Otherwise four P frames would never meet the adaptor of the fifth.
        """
        phase = self.global_step % len(self.hparams["frame_weights"])
        return [
            replace(plan, position=plan.position + phase) if plan.position else plan
            for plan in super().plans(num_frames, stride)
        ]

    def weight_of(self, plan: FramePlan) -> float:
        """By position in the GOP. CHOICE: the first P frame has the first weight."""
        weights: tuple[float, ...] = self.hparams["frame_weights"]
        return weights[(plan.position - 1) % len(weights)]

    def auxiliary_error(self, frame: CodedFrame, clip: Tensor) -> Tensor | float:
        """Error of the warped reference."""
        weight = self.hparams["warp_weight"]
        return weight * warping_error(frame.plan, clip, frame.motion) if weight else 0.0


def warping_error(plan: FramePlan, clip: Tensor, flows: Sequence[Tensor]) -> Tensor:
    """Squared error of source references warped by flows, the mean over the primary references, `(B,)`."""
    x, errors = clip[:, plan.poc], []
    for poc, flow in zip(plan.references, flows, strict=False):
        assert poc is not None
        errors.append(squared_error(warp(clip[:, poc], flow.float()), x))
    return torch.stack(errors).mean(dim=0)
