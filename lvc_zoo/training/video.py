"""The one training loop of all codecs: `code_sequence` with estimated bits, a loss, and an optimiser step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any, ClassVar, NamedTuple

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn

from ..codec.observe import observe
from ..codec.picture import CodedFrame
from ..codec.sequence import Networks, Stored, code_sequence
from ..codec.video import VideoCodec, bits_by_part
from ..config import to_dict
from ..data.datasets import ClipPhase, TrainingClip
from ..entropy.coder import Noise, RateEstimator
from ..entropy.distributions import FactorisedPrior
from ..gop import FramePlan, FrameType, GopStructure
from ..metrics import RDCurve
from ..metrics.distortion import MS_SSIM_SMALLEST_SIDE
from ..models import create_model
from .checkpointing import CheckpointedNetworks
from .losses import DistortionName, anchor_balance, distortion_of, distortion_weights, squared_error, warping_error
from .measuring import MeasuredTask
from .stages import Stage, stage_at, total_steps
from .tally import Tally


class ClipSource:
    """A batch of clips `(B, T, 3, H, W)` as the loop's source."""

    def __init__(self, clip: Tensor):
        self._clip = clip
        self.size = (clip.shape[-2], clip.shape[-1])

    def __call__(self, poc: int) -> Tensor:
        """The picture at `poc`, `(B, 3, H, W)`."""
        return self._clip[:, poc].contiguous(memory_format=torch.channels_last)


class Work(NamedTuple):
    """What one batch's losses are made of.

    Attributes:
        stage: the row of the table.
        clip: frames `(B, T, 3, H, W)`.
        anchor: of each sample, `(B,)` int64.
        weight: of the distortion of each sample, `(B,)`.
        balance: factor of each sample's loss, `(B,)`.
        shown: decoded pictures by POC, without gradient.
        seen: outputs of observed modules, by name.
    """

    stage: Stage
    clip: Tensor
    anchor: Tensor
    weight: Tensor
    balance: Tensor
    shown: dict[int, Tensor]
    seen: Mapping[str, list[Any]]


class VideoCompressionTask(MeasuredTask):
    """Rate-distortion training of one network of a codec; subclasses are the published models.

    The loss is the mean over trained frames and samples of `R + w * lambda * D`, R in bits per pixel, D as
    `losses.distortion_of` has it, divided by sqrt(lambda) relative to the anchors' middle. CHOICE: a batch holds every
    anchor equally often, by position in the batch of all processes together.

    Args:
        variant: name of the codec; None is that of `weights`, or else the paper's.
        overrides: entries of the variant's config, nested ones with a dot, for ablations; refused beside `weights`.
        weights: weights to start from (bundled name, folder or Hub); None starts anew.
        intra: weights whose intra network is taken over; None keeps that of `weights`.
        fresh: start linear shortcuts at the principal components of the first batches; not beside `weights`.
        stages: what the run does when; None is the paper's table.
        frame_weights: w, by temporal layer (B frames) or by place in the cycle (P frames); None is the paper's.
        distortion: "mse" or "ms-ssim".
        weight_decay: of AdamW.
        gradient_clip_val: largest norm of the gradient; 0 does not clip.
        seed: of the noise that stands for rounding.
        reference_curve: validation logs the BD-rate against it.
    """

    trained: ClassVar[FrameType]
    default_variant: ClassVar[str]
    default_stages: ClassVar[tuple[Stage, ...]]
    default_frame_weights: ClassVar[tuple[float, ...]] = (1.0,)
    observed: ClassVar[tuple[str, ...]] = ()
    """Modules of the network whose outputs `auxiliary_error` reads."""

    def __init__(
        self,
        variant: str | None = None,
        overrides: dict[str, Any] | None = None,
        weights: str | None = None,
        intra: str | None = None,
        fresh: bool = False,
        stages: list[Stage] | None = None,
        frame_weights: tuple[float, ...] | None = None,
        distortion: DistortionName = "mse",
        weight_decay: float = 0.0,
        gradient_clip_val: float = 1.0,
        seed: int = 0,
        reference_curve: RDCurve | None = None,
    ):
        for name, rows in (("stages", stages), ("frame_weights", frame_weights)):
            if rows is not None and not rows:
                raise ValueError(f"{name} is empty, expected at least one entry; leave it out for the paper's")
        codec = load_codec(variant or (None if weights else self.default_variant), weights, intra, overrides)
        if fresh and weights:
            raise ValueError(f"fresh would start the trained transforms of {weights!r} anew; leave out one of both")
        super().__init__(codec, distortion, reference_curve)
        self.automatic_optimization = False
        self.save_hyperparameters(ignore=["stages", "reference_curve"])
        # checkpoints and exports hold plain data, which is what they give back
        self.stages = tuple(Stage(**row) if isinstance(row, Mapping) else row for row in stages or self.default_stages)
        self.hparams["stages"] = [asdict(stage) for stage in self.stages]
        self.frame_weights = tuple(frame_weights or self.default_frame_weights)
        self.weight_decay = weight_decay
        self.gradient_clip_val = gradient_clip_val
        self.seed = seed
        self._entered: str | None = None
        codec.requires_grad_(False)
        self.network.requires_grad_(True)
        for stage in self.stages:
            self._check(stage)

    def _check(self, stage: Stage) -> None:
        for stride in stage.strides:
            try:
                plans = self.plans(stage.num_frames, stride)
            except ValueError as error:
                raise ValueError(f"stage {stage.name!r}: {error}") from error
            if all(plan.frame_type is not self.trained for plan in plans):
                raise ValueError(
                    f"stage {stage.name!r} has clips of {stage.num_frames} frames, in which no frame is of type "
                    f"{self.trained.name}; raise num_frames"
                )
        if stage.distortion == "warp" and self.trained is FrameType.I:
            raise ValueError(f"stage {stage.name!r} has distortion 'warp', but I frames have no motion; use 'frame'")
        if stage.trained != "all" and not hasattr(self.network, "motion"):
            raise ValueError(
                f"stage {stage.name!r} trains {stage.trained!r}, but {self.codec.variant} has no motion; use 'all'"
            )

    @property
    def network(self) -> nn.Module:
        """The network in training."""
        network = self.codec.network(self.trained)
        assert isinstance(network, nn.Module)
        return network

    # ---- what a model fixes

    def structure(self, num_frames: int) -> GopStructure:
        """Coding structure of a training clip."""
        raise NotImplementedError

    def plans(self, num_frames: int, stride: int) -> list[FramePlan]:
        """Plans of a training clip whose frames lie `stride` apart."""
        return self.structure(num_frames).plans(num_frames)

    def weight_of(self, plan: FramePlan) -> float:
        """The frame's weight w on its distortion."""
        return self.frame_weights[0]

    def auxiliary_error(self, frame: CodedFrame, work: Work) -> Tensor | float:
        """A squared error that is added to the distortion, `(B,)`: the stage's `warp_weight` is taken care of here."""
        return 0.0

    def start_fresh(self) -> None:
        """Set linear shortcuts from the data; called before training where `fresh` asks for it, and there are some."""

    # ---- a run

    def setup(self, stage: str) -> None:
        """Tell the data what the run asks for, and refuse what it cannot do."""
        if stage != "fit":
            return
        trainer = self.trainer
        if trainer.precision not in ("bf16-mixed", "32-true"):
            raise ValueError(
                f"precision is {trainer.precision}, expected bf16-mixed or 32-true: float16 overflows, and entropy "
                "models do not bear weights in bfloat16"
            )
        if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise ValueError(
                "use_distributed_sampler is true, but the data deals its batches to the processes itself; set "
                "trainer.use_distributed_sampler to false"
            )
        datamodule: Any = getattr(trainer, "datamodule", None)
        if datamodule is not None:
            phases = [ClipPhase(stage.steps, stage.num_frames, stage.strides) for stage in self.stages]
            smallest = {"smallest": MS_SSIM_SMALLEST_SIDE} if self.distortion == "ms-ssim" else {}
            datamodule.follow(phases, **smallest)
        total = total_steps(self.stages)
        if trainer.max_steps > total:
            raise ValueError(
                f"max_steps is {trainer.max_steps}, but the stage table has {total} steps; give a stage more, or leave "
                "max_steps out"
            )
        if trainer.max_steps == -1:
            trainer.fit_loop.epoch_loop.max_steps = total
        if self.hparams["fresh"]:
            if not hasattr(self.network, "transform"):
                raise ValueError(f"fresh starts linear shortcuts, which {self.codec.variant} has not; leave it out")
            self.start_fresh()

    def training_step(self, batch: TrainingClip, batch_index: int) -> Tensor:
        """One optimiser step on a batch, frames `(B, T, 3, H, W)`; logs rate and quality."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        stage, first = stage_at(self.stages, self.global_step)
        learning_rate = stage.learning_rate_at(self.global_step - first)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["share"]
        optimizer.zero_grad()
        tally = self.backpropagate(batch)
        self._average_gradients()
        optimizer.step()
        values = tally.means(self.trainer.strategy.reduce)
        loss = values.pop("loss")
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in values.items()})
        self.log("train/learning_rate", learning_rate)
        return loss

    def backpropagate(self, batch: TrainingClip) -> Tally:
        """Add the gradients of a batch's loss to the trained parameters, chunk by chunk.

        Raises:
            ValueError: for a batch that is not what the present stage asks for.
        """
        stage, _ = stage_at(self.stages, self.global_step)
        self.enter(stage)
        work = self._work(batch, stage)
        plans = self.plans(stage.num_frames, int(batch.stride[0]))
        count = sum(plan.frame_type is self.trained for plan in plans)
        tally = Tally(work.anchor, len(self.codec.lambdas))
        codec: Networks = CheckpointedNetworks(self.codec) if stage.checkpointing else self.codec
        source, coder_for = ClipSource(work.clip), self.coder_for(self.global_rank * len(work.clip))
        dpb: dict[int, Stored] = {}
        with self._no_gradient_sync():
            for chunk in chunks(plans, self.trained, stage.chunk_frames):
                frames = code_sequence(codec, source, chunk, coder_for, work.anchor.float(), dpb=dpb)
                losses = self._losses(frames, work, tally)
                self.manual_backward(torch.stack(losses).sum(dim=0).mean() / count)
                del losses, frames
                dpb.update({poc: stored._replace(picture=detach(stored.picture)) for poc, stored in dpb.items()})
        return tally

    def _losses(self, frames: Iterator[CodedFrame], work: Work, tally: Tally) -> list[Tensor]:
        """Losses of a chunk's trained frames, `(B,)` each."""
        losses = []
        with observe(self.network, *self.observed) as seen:
            work = work._replace(seen=seen)
            for frame in frames:
                work.shown[frame.plan.poc] = frame.x_hat.detach()
                if frame.plan.frame_type is self.trained:
                    losses.append(self.frame_loss(frame, work, tally))
                for outputs in seen.values():
                    outputs.clear()
        return losses

    def frame_loss(self, frame: CodedFrame, work: Work, tally: Tally) -> Tensor:
        """Loss of one frame, `(B,)`; `tally` takes the values to log."""
        x = work.clip[:, frame.plan.poc]
        pixels = x.shape[-2] * x.shape[-1]
        error = squared_error(frame.x_hat_raw, x)
        if work.stage.distortion == "warp":
            references = [work.shown[poc] for poc in frame.plan.references if poc is not None]
            distortion = warping_error(references, frame.motion, x)
        else:
            distortion = error if self.distortion == "mse" else distortion_of(self.distortion, frame.x_hat_raw, x)
        weight = self.weight_of(frame.plan) if work.stage.frame_weights else 1.0
        counted = counted_bits(frame, work.stage.rate) / pixels
        distortion = distortion + self.auxiliary_error(frame, work)
        loss: Tensor = work.balance * (counted + weight * work.weight * distortion)
        rates = {part: bits.detach() / pixels for part, bits in bits_by_part(frame).items()}
        tally.add("loss", loss)
        tally.add("bpp", torch.stack(list(rates.values())).sum(dim=0), by_anchor=True)
        tally.add("psnr_db", -10 * (error / 3).clamp(min=1e-10).log10(), by_anchor=True)
        for part, value in rates.items():
            tally.add(f"bpp_{part}", value)
        return loss

    def _work(self, batch: TrainingClip, stage: Stage) -> Work:
        clip = batch.frames
        anchors, samples = len(self.codec.lambdas), len(clip) * self.trainer.world_size
        if samples % anchors:
            raise ValueError(f"a batch of {samples} cannot hold {anchors} anchors equally often; use a multiple")
        if clip.shape[1] != stage.num_frames:
            raise ValueError(
                f"clips have {clip.shape[1]} frames, stage {stage.name!r} asks for {stage.num_frames}; give the data a "
                "datamodule that follows the stage table"
            )
        if any(side % self.codec.pad_multiple for side in clip.shape[-2:]):
            raise ValueError(
                f"crops of {clip.shape[-2]}x{clip.shape[-1]} do not suit {self.codec.variant}, expected multiples of "
                f"{self.codec.pad_multiple}; change crop"
            )
        # by position in the batch of all processes, so that their number changes nothing
        anchor = (self.global_rank * len(clip) + torch.arange(len(clip), device=clip.device)) % anchors
        weights = torch.tensor(distortion_weights(self.distortion, self.codec.lambdas), device=clip.device)
        balance = anchor_balance(weights)
        return Work(stage, clip, anchor, weights[anchor], balance[anchor], {}, {})

    def coder_for(self, first_sample: int) -> Callable[[FramePlan], RateEstimator]:
        """Estimators with this step's noise; `first_sample` is the batch's first index in the global batch."""
        return lambda plan: RateEstimator(Noise(self.seed, self.global_step, first_sample, plan.poc))

    def estimated_frames(self, clip: Tensor, rate: Tensor, stride: int = 1) -> Iterator[CodedFrame]:
        """Frames of a clip `(B, T, 3, H, W)`, coded as in training but with rounding instead of noise; `rate (B,)`."""
        plans = self.plans(clip.shape[1], stride)
        return code_sequence(self.codec, ClipSource(clip), plans, lambda _: RateEstimator(), rate)

    def enter(self, stage: Stage) -> None:
        """Freeze what the stage does not train: what has no gradient is left alone by the optimiser."""
        if self._entered == stage.trained:
            return
        for name, parameter in self.network.named_parameters():
            is_motion = name.startswith("motion.")
            parameter.requires_grad_(stage.trained == "all" or is_motion == (stage.trained == "motion"))
        self._entered = stage.trained

    # ---- processes and optimiser

    def _no_gradient_sync(self) -> AbstractContextManager[object]:
        """CHOICE: gradients are averaged once a step in `_average_gradients`, since a clip has many backward passes."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    def _average_gradients(self) -> None:
        """Give every process the mean gradient; a parameter that no process reached keeps none."""
        if self.trainer.world_size == 1:
            return
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        reached = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        flat = torch.cat([reached, *(gradient.flatten() for gradient in gradients)])
        flat = self.trainer.strategy.reduce(flat, reduce_op="mean")
        reached, flat = flat[: len(parameters)], flat[len(parameters) :]
        parts = flat.split([p.numel() for p in parameters])
        for parameter, is_reached, part in zip(parameters, reached.tolist(), parts, strict=True):
            parameter.grad = part.view(parameter.shape).to(parameter.dtype) if is_reached else None

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient's norm; callbacks have seen it before."""
        if self.gradient_clip_val > 0:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.gradient_clip_val)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; `training_step` sets the learning rate, in which hyper densities have ten shares.

        CHOICE: their few parameters start far from any real spread; at the common rate they take thousands of steps.
        """
        priors = [m for m in self.network.modules() if isinstance(m, FactorisedPrior)]
        densities = list(dict.fromkeys(p for prior in priors for p in prior.parameters()))
        others = [p for p in self.network.parameters() if all(p is not d for d in densities)]
        groups: list[dict[str, Any]] = [{"params": others, "share": 1.0}, {"params": densities, "share": 10.0}]
        return torch.optim.AdamW(groups, lr=self.stages[0].learning_rate, weight_decay=self.weight_decay)


def counted_bits(frame: CodedFrame, latents: Sequence[str]) -> Tensor:
    """Bits of some latents, each with its hyper latent, `(B,)`."""
    total = frame.x_hat.new_zeros(frame.x_hat.shape[0], dtype=torch.float32)
    for name, bits in frame.coder.bits.items():  # type: ignore[attr-defined]
        part, *rest = name.split("/")
        if (rest[0] if part == "hyper" else part) in latents:
            total = total + bits
    return total


def chunks(plans: Sequence[FramePlan], trained: FrameType, size: int) -> list[list[FramePlan]]:
    """Plans in coding order, cut after every `size` trained frames; the last chunk has the rest."""
    cut: list[list[FramePlan]] = [[]]
    for plan in plans:
        if sum(p.frame_type is trained for p in cut[-1]) == size:
            cut.append([])
        cut[-1].append(plan)
    return cut


def detach(value: Any) -> Any:
    """The same tensors, tuples, lists and NamedTuples without gradients."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(detach, value))
    return type(value)(map(detach, value)) if isinstance(value, (tuple, list)) else value


def load_codec(
    variant: str | None,
    weights: str | None = None,
    intra: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> VideoCodec:
    """A codec in training mode: an untrained variant, or one whose weights are named (bundled, folder or Hub).

    Args:
        variant: name of the codec; None is that of `weights`.
        weights: to load.
        intra: weights whose intra network replaces the codec's own; what they had been through joins its metadata.
        overrides: config entries of an untrained variant.

    Raises:
        ValueError: for overrides beside weights, weights of another variant, or an intra network of another config.
    """
    if weights and overrides:
        raise ValueError(
            f"overrides {dict(overrides)} stand beside weights {weights!r}, whose config is fixed; leave one out"
        )
    if weights:
        codec = VideoCodec.from_pretrained(weights).train()
    elif variant:
        codec = create_model(variant, **(overrides or {}))
    else:
        raise ValueError("neither variant nor weights are named; name one")
    if weights and variant and codec.variant not in (variant, "custom"):
        raise ValueError(f"variant is {variant!r}, but weights {weights!r} are of {codec.variant!r}; leave one out")
    if intra is not None:
        source = VideoCodec.from_pretrained(intra)
        configs = [to_dict(each.config).get("intra", to_dict(each.config)) for each in (codec, source)]
        other = {key: tuple(config.get(key) for config in configs) for key in configs[0] | configs[1]}
        other = {key: values for key, values in other.items() if values[0] != values[1]}
        if other:
            raise ValueError(
                f"the intra network of {intra!r} ({source.variant}) does not fit {codec.variant}; name weights of a "
                f"codec with the same intra config; these entries differ, here and there: {other}"
            )
        codec.intra.load_state_dict(source.intra.state_dict())
        origin = {"weights": intra, "variant": source.variant, "training": source.metadata.get("training", [])}
        codec.metadata = {**codec.metadata, "intra": origin}
    return codec
