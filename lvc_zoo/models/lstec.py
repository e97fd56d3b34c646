"""L-STEC: "Learned Video Compression with Long-term Spatio-Temporal Enhanced Context", arXiv 2512.12790.

Data flow of a P frame: flow (SpyNet) -> motion codec -> decoded flow -> temporal contexts (warped features of the
reference) and spatial contexts (its warped pixels), each refined by the hidden state of a ConvLSTM that has seen all
frames since the I frame -> Inception fusion -> contextual encoder -> y -> quadtree -> contextual decoder -> feature
generation -> x_hat. The components are DCVC-DC's inside DCVC-TCM's flow, as the paper has it.
What the paper leaves open follows the reference sheet's section 3.3; each is a CHOICE.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks.adaptor import QualityAdaptor
from ..blocks.conv import Conv2d, ResidualBlock
from ..blocks.dcvc import (
    BlendedPrediction,
    ContextualDecoder,
    ContextualEncoder,
    Reconstruction,
    TemporalPrior,
    initialise_unit_gain,
    quieten,
)
from ..blocks.fusion import ContextRefinement, InceptionFusion, MultiScaleContextFusion
from ..blocks.gain import RateGain, coefficient_gains, feature_gains
from ..blocks.motion import EstimatorName, flow_estimator, flow_pyramid, warp
from ..blocks.pyramid import FeaturePyramid
from ..blocks.recurrent import ConvLSTMCell, LSTMState
from ..blocks.transform import BlockTransform, LatentScale, soft_limit
from ..codec.picture import FrameInfo, Picture
from ..codec.video import VideoCodec
from ..entropy.coder import LatentCoder
from ..entropy.context import ConditionalQuadtree
from ..entropy.motion import MotionCodec, MotionState
from ..gop import FramePlan, FrameType, LowDelay
from .dcvc_intra import TINY_INTRA, DCVCIntra, DCVCIntraConfig

SCALES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LSTECConfig:
    """Shape of L-STEC; the defaults are the paper's size.

    Of the paper's ablation Ma has neither `long_term` nor `spatial`, Mb has `long_term`, Mc has both.

    Attributes:
        intra: its I-frame codec; lambdas and rate rule are taken from there.
        features: widths of reference features, contexts and (the first) hidden states at full, half, quarter size.
        current: widths of the current feature at the same sizes.
        latent: channels of y.
        hyper: channels of its hyper latent.
        motion: channels of the motion codec and its latents.
        long_term: the ConvLSTM chains and the refinement by their hidden states.
        spatial: the pixel branch and Inception fusion.
        hidden: which hidden state refines frame t. "stored": the one made while t - 1 was coded, as Eq. 10 and 11
            have it; its newest input is the feature of t - 2, and the first P frame has none. "fresh": the one made
            from the feature of t - 1, as the paper's overview has it.
        refinement: layers of HRefine, see `blocks.fusion.ContextRefinement`.
        estimator: of flow. CHOICE for small models: "block_matching" instead of the paper's "spynet", because a small
            and shortly trained SpyNet predicts 4 to 6 dB worse.
        spynet_widths: inner channels of each flow level.
        spynet_kernel: kernel of the flow networks.
        spynet_finest: the finest flow has size H / 2**spynet_finest.
        unet_widths: of feature generation.
        unet_depth: of feature generation.
        unets: number of UNets.
        prior_width: inner width of the parameter networks of y, those of motion being three times as wide as their
            latent; None widens them with the latents.
        shortcut: code a prediction's residual, and the flow, with linear block transforms around the networks; needs
            `prior_width`.
    """

    intra: DCVCIntraConfig = field(default_factory=DCVCIntraConfig)
    features: tuple[int, int, int] = (48, 64, 96)
    current: tuple[int, int, int] = (32, 64, 96)
    latent: int = 128
    hyper: int = 128
    motion: int = 64
    long_term: bool = True
    spatial: bool = True
    hidden: Literal["stored", "fresh"] = "stored"
    refinement: Literal["full", "light"] = "full"
    estimator: EstimatorName = "spynet"
    spynet_widths: tuple[int, ...] = (32, 64, 32, 16)
    spynet_kernel: int = 7
    spynet_finest: int = 0
    unet_widths: tuple[int, int, int] = (32, 64, 128)
    unet_depth: int = 4
    unets: int = 2
    prior_width: int | None = None
    shortcut: bool = False

    def __post_init__(self) -> None:
        """Check what the layers cannot."""
        for name, channels in (("latent", self.latent), ("motion", self.motion)):
            if channels % 4:
                raise ValueError(f"{name} has {channels} channels, expected a multiple of 4 for the quadtree")
        if self.shortcut and self.prior_width is None:
            raise ValueError("prior_width is None, but shortcut needs the small parameter networks; give their width")


class LSTECState(NamedTuple):
    """What the next frame reads of a P frame besides its picture. Nothing of it outlives an I frame.

    Attributes:
        feature: propagated feature F, `(B, D0, H, W)`.
        y_hat: latent as networks see it, `(B, latent, H/16, W/16)`.
        motion: of the motion codec.
        temporal: TLSTM's state HT, cellT; None without long-term chains.
        spatial: SLSTM's state HS, cellS; None without the chains or the spatial branch.
    """

    feature: Tensor
    y_hat: Tensor
    motion: MotionState
    temporal: LSTMState | None
    spatial: LSTMState | None


class Branch(NamedTuple):
    """What one branch takes from the reference.

    Attributes:
        scales: to be warped, at full, half and quarter size: features, or pixels.
        chain: the chain's new state, for the frame that is being coded.
        hidden: the hidden state that refines the contexts, at the three sizes; None where there is none yet.
    """

    scales: list[Tensor]
    chain: LSTMState | None
    hidden: list[Tensor] | None


class LSTECReference(NamedTuple):
    """A reference as the next frame sees it; `spatial` is None without that branch."""

    x_hat: Tensor
    state: LSTECState | None
    temporal: Branch
    spatial: Branch | None


class LongTermChain(nn.Module):
    """A ConvLSTM over all frames since the I frame, and HRefine by its hidden state (Eq. 3 to 11)."""

    def __init__(self, config: LSTECConfig):
        super().__init__()
        channels = config.features[0]
        self.is_stored = config.hidden == "stored"
        self.cell = ConvLSTMCell(channels, channels)
        self.refinement = ContextRefinement(config.features, config.refinement)

    def step(self, feature: Tensor, state: LSTMState | None) -> tuple[LSTMState, list[Tensor] | None]:
        """The new state after `feature (B, D0, H, W)`, and the hidden state to refine with, spread over the sizes."""
        new: LSTMState = self.cell(feature, state)
        used = state if self.is_stored else new
        return new, None if used is None else self.refinement.spread(used.hidden)

    def refine(self, contexts: list[Tensor], hidden: list[Tensor] | None) -> list[Tensor]:
        """Refined contexts at the three sizes, shapes kept; `hidden` as `step` gives it, None leaves them alone."""
        if hidden is None:
            return contexts
        refined: list[Tensor] = self.refinement(contexts, hidden)
        return refined


class TemporalMiner(nn.Module):
    """Features of the reference to temporal contexts (Eq. 2, 4 and 10)."""

    def __init__(self, config: LSTECConfig):
        super().__init__()
        full = config.features[0]
        # CHOICE with the shortcut: the adaptor sees the picture too, since the feature alone is a residual; and the
        # feature is limited, because it is the one recurrent value that nothing else bounds over a long GOP
        self.adaptor = QualityAdaptor(full, full + 3 if config.shortcut else full)
        self.is_residual = config.shortcut
        self.pyramid = FeaturePyramid(config.features)
        self.fusion = MultiScaleContextFusion(config.features)
        self.chain = LongTermChain(config) if config.long_term else None

    def reference(self, picture: Picture, plan: FramePlan) -> Branch:
        """Features and hidden state for the frame after `picture`."""
        state: LSTECState | None = picture.state
        # CHOICE: one adaptor feeds both the pyramid and the chain
        known = state.feature if state else None
        if known is not None and self.is_residual:
            known = torch.cat([soft_limit(known), picture.x_hat], dim=1)
        feature = self.adaptor(picture.x_hat, known, plan.position + 1)
        chain, hidden = self.chain.step(feature, state.temporal if state else None) if self.chain else (None, None)
        return Branch(self.pyramid(feature), chain, hidden)

    def contexts(self, branch: Branch, flows: list[Tensor]) -> list[Tensor]:
        """CT at full, half and quarter size; `flows` as `flow_pyramid` gives them."""
        contexts: list[Tensor] = self.fusion([warp(f, v) for f, v in zip(branch.scales, flows, strict=True)])
        return self.chain.refine(contexts, branch.hidden) if self.chain else contexts


class SpatialMiner(nn.Module):
    """Pixels of the reference to spatial contexts (Eq. 1, 3 and 11)."""

    def __init__(self, config: LSTECConfig):
        super().__init__()
        # CHOICE: warped pixels get their width from a convolution and a residual block a size
        self.embed = nn.ModuleList(nn.Sequential(Conv2d(3, width), ResidualBlock(width)) for width in config.features)
        self.fusion = MultiScaleContextFusion(config.features)
        self.adaptor = Conv2d(3, config.features[0]) if config.long_term else None
        self.chain = LongTermChain(config) if config.long_term else None

    def reference(self, picture: Picture) -> Branch:
        """Pixels and hidden state for the frame after `picture`."""
        state: LSTECState | None = picture.state
        scales = [picture.x_hat]
        for _ in range(SCALES - 1):
            scales.append(F.avg_pool2d(scales[-1], 2))
        if self.chain is None or self.adaptor is None:
            return Branch(scales, None, None)
        chain, hidden = self.chain.step(self.adaptor(picture.x_hat), state.spatial if state else None)
        return Branch(scales, chain, hidden)

    def contexts(self, branch: Branch, flows: list[Tensor]) -> list[Tensor]:
        """CS at full, half and quarter size; `flows` as `flow_pyramid` gives them."""
        scales = zip(self.embed, branch.scales, flows, strict=True)
        contexts: list[Tensor] = self.fusion([embed(warp(pixels, flow)) for embed, pixels, flow in scales])
        return self.chain.refine(contexts, branch.hidden) if self.chain else contexts


class LSTECInter(nn.Module):
    """The P-frame network, a `FrameNetwork`.

    Args:
        config: its shape.
    """

    def __init__(self, config: LSTECConfig):
        super().__init__()
        self.config = config
        full, half, quarter = config.features
        latent = config.latent
        lambdas, rule = config.intra.lambdas, config.intra.rate_rule
        scales = (1.0,) * len(lambdas) if config.shortcut else feature_gains(lambdas)
        extra = 3 if config.shortcut else 0

        self.motion = MotionCodec(
            flow_estimator(config.estimator, config.spynet_widths, config.spynet_kernel, config.spynet_finest),
            config.motion,
            lambdas,
            rule=rule,
            width=config.prior_width and 3 * config.motion,
            shortcut=config.shortcut,
        )
        self.temporal = TemporalMiner(config)
        self.spatial = SpatialMiner(config) if config.spatial else None
        self.inception = nn.ModuleList(InceptionFusion(width) for width in config.features if config.spatial)
        self.encoder_gain = RateGain(config.current[1] + half, scales, rule=rule)
        self.encoder = ContextualEncoder(3 + extra, config.current[1:], config.features, latent)
        self.temporal_prior = TemporalPrior(quarter, quarter, latent)
        self.latents = ConditionalQuadtree(
            latent,
            config.hyper,
            known=latent,
            references=1,
            inner=config.prior_width or 3 * latent,
            width=config.prior_width,
        )
        self.decoder_gain = RateGain(config.current[1], tuple(1 / s for s in scales), rule=rule)
        self.decoder = ContextualDecoder(latent, config.current, config.features[1:])
        self.reconstruction = Reconstruction(
            config.current[0] + full + extra, full, config.unet_widths, config.unet_depth, config.unets
        )
        if config.shortcut:
            initialise_unit_gain(self, skip=self.motion)
            self.prediction = BlendedPrediction(full, references=1)
            self.transform = BlockTransform(latent)
            self.latent_scale = LatentScale(latent, coefficient_gains(lambdas))
            quieten(self.encoder.down4, self.reconstruction.picture)

    def reference(self, picture: Picture, plan: FramePlan) -> LSTECReference:
        """Features, pixels and hidden states of a picture, for the frame after it: only that one reads it."""
        spatial = None if self.spatial is None else self.spatial.reference(picture)
        return LSTECReference(picture.x_hat, picture.state, self.temporal.reference(picture, plan), spatial)

    def forward(
        self, x: Tensor | None, references: tuple[LSTECReference], coder: LatentCoder, info: FrameInfo
    ) -> Picture:
        """Code one P frame.

        Args:
            x: `(B, 3, H, W)` in [0, 1], H and W multiples of 16; None at the decoder.
            references: the frame before.
            coder: estimates, writes or reads.
            info: size, rate and plan.

        Returns:
            The picture, x_hat unclamped, with its state and its flow.
        """
        (past,) = references
        states = [] if past.state is None else [past.state]
        flows, motion = self.motion.code(x, [past.x_hat], [s.motion for s in states], coder, info.rate)
        contexts = self._mine(past, flows[0])
        predicted = None
        if self.config.shortcut:
            # CHOICE: bicubic, since bilinear blurs, and a P frame's blur is the next one's reference
            predicted = self.prediction([warp(past.x_hat, flows[0], "bicubic")], contexts[:1])

        y = None
        gain, unit = self.latent_scale(info.rate) if self.config.shortcut else (1.0, None)
        if x is not None:
            y = self._analyse(x, predicted, contexts, info) * gain
        temporal = self.temporal_prior(contexts[2])
        known = [s.y_hat for s in states]
        y_hat = self.latents.code(y, info.latent_shape, coder, "frame", known=[temporal], states=known, unit=unit)

        seen = y_hat if unit is None else soft_limit(y_hat / unit)
        decoded = self.decoder(seen, lambda level, _: contexts[level], self.decoder_gain(info.rate))
        base = None if predicted is None else predicted + self.transform.synthesis(y_hat / gain)
        x_hat, feature = self.reconstruction(decoded, contexts[0], base)
        chain = past.spatial.chain if past.spatial else None
        return Picture(x_hat, LSTECState(feature, seen, motion, past.temporal.chain, chain), tuple(flows))

    def _mine(self, past: LSTECReference, flow: Tensor) -> list[Tensor]:
        """C at full, half and quarter size (Eq. 10 to 12)."""
        flows = flow_pyramid(flow, SCALES)
        temporal = self.temporal.contexts(past.temporal, flows)
        if self.spatial is None or past.spatial is None:
            return temporal
        spatial = self.spatial.contexts(past.spatial, flows)
        return [fuse(s, t) for fuse, s, t in zip(self.inception, spatial, temporal, strict=True)]

    def _analyse(self, x: Tensor, predicted: Tensor | None, contexts: list[Tensor], info: FrameInfo) -> Tensor:
        seen = x if predicted is None else torch.cat([x, predicted], dim=1)
        y = self.encoder(seen, lambda level, _: contexts[level], self.encoder_gain(info.rate))
        return y if predicted is None else y + self.transform.analysis(x - predicted)


class LSTEC(VideoCodec):
    """Low-delay codec with long-term context: intra codec of DCVC-DC, P frames by `LSTECInter`.

    Args:
        config: None is the paper's size.
    """

    config_type = LSTECConfig
    default_structure = LowDelay(32)
    frame_types = frozenset({FrameType.I, FrameType.P})

    def __init__(self, config: LSTECConfig | None = None):
        config = config or LSTECConfig()
        super().__init__(config, lambdas=config.intra.lambdas, intra=DCVCIntra(config.intra), inter=LSTECInter(config))


VARIANTS: dict[str, LSTECConfig] = {
    "lstec": LSTECConfig(),
    "lstec-tiny": LSTECConfig(
        intra=TINY_INTRA,
        features=(8, 16, 24),
        current=(8, 16, 24),
        latent=224,
        hyper=64,
        motion=32,
        refinement="light",
        estimator="block_matching",
        unet_widths=(8, 16, 32),
        unet_depth=1,
        unets=1,
        prior_width=160,
        shortcut=True,
    ),
}
