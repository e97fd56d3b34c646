"""BiECVC: "Gated Diversification of Bidirectional Contexts for Learned Video Compression", arXiv 2505.09193.

Data flow of a B frame: two flows (SpyNet) -> motion codec -> decoded flows -> local contexts by warping (primaries) and
by accumulated flows (secondaries) -> temporal prior -> contextual encoder (non-local contexts and gating at each scale)
-> y -> quadtree -> contextual decoder (the same, from the decoded side) -> feature generation -> x_hat.
Widths that the paper does not give follow the reference sheet's section 4.3; each is a CHOICE.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..blocks.attention import LinearAttention
from ..blocks.conv import Conv2d, DWConvBlock, PointwiseConv
from ..blocks.dcvc import (
    BlendedPrediction,
    ContextAt,
    ContextualDecoder,
    ContextualEncoder,
    Reconstruction,
    TemporalPrior,
    initialise_unit_gain,
    quieten,
)
from ..blocks.fusion import MultiScaleContextFusion
from ..blocks.gain import RateGain, coefficient_gains, feature_gains
from ..blocks.gating import GatedContextFusion
from ..blocks.motion import EstimatorName, accumulate_flow, flow_estimator, flow_pyramid, warp
from ..blocks.pyramid import FeaturePyramid
from ..blocks.transform import BlockTransform, LatentScale, soft_limit
from ..codec.picture import FrameInfo, Picture
from ..codec.video import VideoCodec
from ..entropy.coder import LatentCoder
from ..entropy.context import ConditionalQuadtree
from ..entropy.motion import MotionCodec, MotionState
from ..gop import FramePlan, FrameType, RandomAccess
from .dcvc_intra import TINY_INTRA, DCVCIntra, DCVCIntraConfig

SCALES = 3
LAYERS = 5
"""Temporal layers with gains of their own; deeper trees reuse the last (training clips have at most 33 frames)."""
REFERENCE_LAYERS = 4
"""Layers of B references with an adaptor of their own: in a 33-frame clip layer 5 is never referenced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BiECVCConfig:
    """Shape of BiECVC; the defaults are the paper's size.

    Attributes:
        intra: its I-frame codec; the lambdas are taken from there.
        features: (D0, D1, D2), widths of reference features and contexts at full, half and quarter size.
        current: (C0, C1, C2), widths of the current feature.
        latent: channels of y.
        hyper: channels of its hyper latent.
        motion: channels of the motion codec and its latents.
        head_dim: channels of an attention head.
        secondary: secondary local and non-local references, BLCD (Table 3).
        non_local: linear attention, BNLCD.
        gating: the gate of BCG.
        estimator: of flow; "block_matching" is a CHOICE for small models.
        spynet_widths: inner channels of each flow level.
        spynet_kernel: kernel of the flow networks.
        spynet_finest: the finest flow has size H / 2**spynet_finest.
        unet_widths: of feature generation.
        unet_depth: of feature generation.
        unets: number of UNets.
        shared_quadtree: one network for the three steps of y's quadtree.
        prior_width: inner width of the parameter networks of y; None widens them with the latent.
        shortcut: code a blended prediction's residual with a linear block transform around the networks.
        motion_shortcut: code the flows with one too, with parameter networks three times as wide as their latent.
    """

    intra: DCVCIntraConfig = field(default_factory=DCVCIntraConfig)
    features: tuple[int, int, int] = (48, 64, 96)
    current: tuple[int, int, int] = (32, 64, 96)
    latent: int = 128
    hyper: int = 128
    motion: int = 64
    head_dim: int = 16
    secondary: bool = True
    non_local: bool = True
    gating: bool = True
    estimator: EstimatorName = "spynet"
    spynet_widths: tuple[int, ...] = (32, 64, 32, 16)
    spynet_kernel: int = 7
    spynet_finest: int = 0
    unet_widths: tuple[int, int, int] = (32, 64, 128)
    unet_depth: int = 4
    unets: int = 2
    shared_quadtree: bool = False
    prior_width: int | None = None
    shortcut: bool = False
    motion_shortcut: bool = False

    def __post_init__(self) -> None:
        """Check what the layers cannot."""
        for name, channels in (("latent", self.latent), ("motion", self.motion)):
            if channels % 4:
                raise ValueError(f"{name} has {channels} channels, expected a multiple of 4 for the quadtree")
        if self.non_local and any(width % self.head_dim for width in self.features):
            raise ValueError(f"features {self.features} do not split into heads of head_dim {self.head_dim}")


class BiECVCState(NamedTuple):
    """What later frames read of a B frame besides its picture and flows.

    Attributes:
        feature: propagated feature, `(B, D0, H, W)`.
        y_hat: latent as networks see it, `(B, latent, H/16, W/16)`.
        motion: of the motion codec.
    """

    feature: Tensor
    y_hat: Tensor
    motion: MotionState


class BiECVCReference(NamedTuple):
    """A reference as every reader sees it (feature cache, Sec. 3.5).

    Attributes:
        picture: x_hat, state and flows.
        features: F^l at three scales.
        summaries: A^l of the linear attention at three scales; () without non-local contexts.
    """

    picture: Picture
    features: list[Tensor]
    summaries: list[Tensor]


class References(NamedTuple):
    """The four roles; an empty secondary is filled by its primary."""

    past: BiECVCReference
    future: BiECVCReference
    past_secondary: BiECVCReference
    future_secondary: BiECVCReference

    def states(self) -> list[BiECVCState]:
        """States of the primaries that are B frames, past first."""
        return [r.picture.state for r in (self.past, self.future) if r.picture.state is not None]


class ContextMiner(nn.Module):
    """References to local contexts (BLCD) and non-local summaries (BNLCD)."""

    def __init__(self, config: BiECVCConfig):
        super().__init__()
        full = config.features[0]
        self.secondary = config.secondary
        # CHOICE with the shortcut: a B reference's adaptor sees its picture too, since the feature alone is a residual
        self.adaptor_intra = Conv2d(3, full)
        self.adaptor_inter = nn.ModuleList(
            PointwiseConv(full + (3 if config.shortcut else 0), full) for _ in range(REFERENCE_LAYERS)
        )
        self.with_picture = config.shortcut
        self.pyramid = FeaturePyramid(config.features, light=True)
        self.fusion = MultiScaleContextFusion(config.features, up_kernel=1)
        widths = config.features if config.non_local else ()
        self.key = nn.ModuleList(DWConvBlock(width, width) for width in widths)
        self.value = nn.ModuleList(DWConvBlock(width, width) for width in widths)
        self.attention = LinearAttention(config.head_dim)

    def reference(self, picture: Picture, plan: FramePlan) -> BiECVCReference:
        """Features and attention summaries of a picture, for whoever reads it."""
        if picture.state is None:
            feature = self.adaptor_intra(picture.x_hat)
        else:
            feature = picture.state.feature
            if self.with_picture:
                feature = torch.cat([feature, picture.x_hat], dim=1)
            # CHOICE: by the reference's own layer, so that a cached feature serves every reader
            feature = self.adaptor_inter[min(plan.layer, REFERENCE_LAYERS) - 1](feature)
        features = self.pyramid(feature)
        summaries = [
            self.attention.summarise(key(f), value(f))
            for key, value, f in zip(self.key, self.value, features, strict=False)
        ]
        return BiECVCReference(picture, features, summaries)

    def local(self, references: References, flows: list[Tensor]) -> list[list[Tensor]]:
        """Local contexts by scale, past to future: two at full size, four at the others (eq. 1 and 2)."""
        primaries = [
            self.fusion([warp(f, v) for f, v in zip(r.features, flow_pyramid(flow, SCALES), strict=True)])
            for r, flow in zip((references.past, references.future), flows, strict=True)
        ]
        contexts = [list(scale) for scale in zip(*primaries, strict=True)]
        if self.secondary:
            past = self._secondary(references.past_secondary, references.past, flows[0], role=0)
            future = self._secondary(references.future_secondary, references.future, flows[1], role=1)
            for level in range(1, SCALES):
                contexts[level] = [past[level], *contexts[level], future[level]]
        return contexts

    @staticmethod
    def _secondary(secondary: BiECVCReference, primary: BiECVCReference, flow: Tensor, role: int) -> list[Tensor]:
        """Warped features of a secondary reference; the full size, which nobody reads, is not warped."""
        if secondary is not primary:
            flow = accumulate_flow(flow, primary.picture.motion[role])
        flows = flow_pyramid(flow, SCALES)
        return [flow, *(warp(secondary.features[level], flows[level]) for level in range(1, SCALES))]

    def non_local(self, references: References, query: Tensor, level: int) -> list[Tensor]:
        """Non-local contexts for a query `(B, D_l, H_l, W_l)`, past to future (eq. 3 and 4)."""
        chosen: tuple[BiECVCReference, ...] = references[:2]
        if self.secondary and level > 0:
            chosen = (references.past_secondary, *chosen, references.future_secondary)
        return [self.attention(query, r.summaries[level]) for r in chosen]


class ContextGating(nn.Module):
    """Query embeddings and gated fusion at three scales, for one side (encoder or decoder)."""

    def __init__(self, config: BiECVCConfig):
        super().__init__()
        counts = [2, 4, 4] if config.secondary else [2, 2, 2]
        if config.non_local:
            counts = [2 * n for n in counts]
            pairs = zip(config.current, config.features, strict=True)
            self.query = nn.ModuleList(DWConvBlock(c, d) for c, d in pairs)
        self.is_non_local = config.non_local
        self.fuse = nn.ModuleList(
            GatedContextFusion(c, n * d, d, gated=config.gating)
            for c, d, n in zip(config.current, config.features, counts, strict=True)
        )

    def contexts(self, miner: ContextMiner, references: References, local: list[list[Tensor]]) -> ContextAt:
        """The function from scale and current feature to the gated context C^l (eq. 7 and 8)."""

        def context(level: int, current: Tensor) -> Tensor:
            parts = list(local[level])
            if self.is_non_local:
                parts += miner.non_local(references, self.query[level](current), level)
            return self.fuse[level](current, torch.cat(parts, dim=1))

        return context


class BiECVCInter(nn.Module):
    """The B-frame network, a `FrameNetwork`.

    Args:
        config: its shape.
    """

    def __init__(self, config: BiECVCConfig):
        super().__init__()
        self.config = config
        full, half, quarter = config.features
        latent, lambdas = config.latent, config.intra.lambdas
        scales = (1.0,) * len(lambdas) if config.shortcut else feature_gains(lambdas)

        self.motion = MotionCodec(
            flow_estimator(config.estimator, config.spynet_widths, config.spynet_kernel, config.spynet_finest),
            config.motion,
            lambdas,
            references=2,
            layers=LAYERS,
            width=3 * config.motion if config.motion_shortcut else None,
            shortcut=config.motion_shortcut,
        )
        self.miner = ContextMiner(config)
        self.stem = Conv2d(6 if config.shortcut else 3, config.current[0])
        self.gating = nn.ModuleDict({side: ContextGating(config) for side in ("encoder", "decoder")})
        self.encoder_gain = RateGain(config.current[1] + half, scales, LAYERS)
        self.encoder = ContextualEncoder(config.current[0], config.current[1:], config.features, latent)
        self.temporal_prior = TemporalPrior(2 * quarter, quarter, latent)
        self.latents = ConditionalQuadtree(
            latent,
            config.hyper,
            known=latent,
            references=2,
            inner=config.prior_width or 3 * latent,
            width=config.prior_width,
            shared=config.shared_quadtree,
        )
        self.decoder_gain = RateGain(config.current[1], tuple(1 / s for s in scales), LAYERS)
        self.decoder = ContextualDecoder(latent, config.current, config.features[1:])
        self.reconstruction = Reconstruction(
            full + config.current[0] + (3 if config.shortcut else 0),
            full,
            config.unet_widths,
            config.unet_depth,
            config.unets,
        )
        if config.shortcut:
            initialise_unit_gain(self, skip=self.motion if config.motion_shortcut else None)
            self.prediction = BlendedPrediction(full, references=2)
            self.transform = BlockTransform(latent)
            self.latent_scale = LatentScale(latent, coefficient_gains(lambdas), LAYERS)
            quieten(self.encoder.down4, self.reconstruction.picture)
            if not config.motion_shortcut:
                quieten(*(last for name, last in self.motion.estimator.named_modules() if name.endswith(".8")))

    def reference(self, picture: Picture, plan: FramePlan) -> BiECVCReference:
        """Features, keys and values of a reference; see `ContextMiner.reference`."""
        return self.miner.reference(picture, plan)

    def forward(
        self,
        x: Tensor | None,
        references: tuple[BiECVCReference | None, ...],
        coder: LatentCoder,
        info: FrameInfo,
    ) -> Picture:
        """Code one B frame.

        Args:
            x: `(B, 3, H, W)` in [0, 1], H and W multiples of 16; None at the decoder.
            references: past, future, past secondary, future secondary; the primaries must be there.
            coder: estimates, writes or reads.
            info: size, rate and plan.

        Returns:
            The picture, x_hat unclamped, with its state and its two flows.
        """
        refs = fill_roles(references)
        pictures = [refs.past.picture.x_hat, refs.future.picture.x_hat]
        known = [state.motion for state in refs.states()]
        layer = info.plan.layer - 1
        flows, motion = self.motion.code(x, pictures, known, coder, info.rate, layer)
        local = self.miner.local(refs, flows)
        predicted = self._predict(refs, flows, local[0])

        y = None
        gain, unit = self.latent_scale(info.rate, layer) if self.config.shortcut else (1.0, None)
        if x is not None:
            y = self._analyse(x, predicted, self._contexts("encoder", refs, local), info) * gain
        # the two primaries at quarter size stand in the middle of the list
        middle = len(local[2]) // 2
        temporal = self.temporal_prior(torch.cat(local[2][middle - 1 : middle + 1], dim=1))
        states = [state.y_hat for state in refs.states()]
        y_hat = self.latents.code(y, info.latent_shape, coder, "frame", known=[temporal], states=states, unit=unit)

        context = self._contexts("decoder", refs, local)
        seen = y_hat if unit is None else soft_limit(y_hat / unit)
        decoded = self.decoder(seen, context, self.decoder_gain(info.rate, layer))
        base = None if predicted is None else predicted + self.transform.synthesis(y_hat / gain)
        x_hat, feature = self.reconstruction(context(0, decoded), decoded, base)
        return Picture(x_hat, BiECVCState(feature, seen, motion), tuple(flows))

    def _contexts(self, side: str, refs: References, local: list[list[Tensor]]) -> ContextAt:
        gating = self.gating[side]
        assert isinstance(gating, ContextGating)
        return gating.contexts(self.miner, refs, local)

    def _predict(self, refs: References, flows: list[Tensor], local: list[Tensor]) -> Tensor | None:
        if not self.config.shortcut:
            return None
        # CHOICE: bicubic, since bilinear blurs: 0.5 dB between two source neighbours, 0.2 dB from one
        warped = [warp(r.picture.x_hat, flow, "bicubic") for r, flow in zip(refs[:2], flows, strict=True)]
        return self.prediction(warped, local)

    def _analyse(self, x: Tensor, predicted: Tensor | None, context: ContextAt, info: FrameInfo) -> Tensor:
        seen = x if predicted is None else torch.cat([x, predicted], dim=1)
        y = self.encoder(self.stem(seen), context, self.encoder_gain(info.rate, info.plan.layer - 1))
        return y if predicted is None else y + self.transform.analysis(x - predicted)


def fill_roles(references: tuple[BiECVCReference | None, ...]) -> References:
    """Replace an empty secondary by its primary (CHOICE: shapes never change, and it costs nothing)."""
    past, future, past_secondary, future_secondary = references
    if past is None or future is None:
        raise ValueError("a B frame of BiECVC needs a past and a future reference; use RandomAccess")
    return References(past, future, past_secondary or past, future_secondary or future)


class BiECVC(VideoCodec):
    """Bidirectional codec for random access: intra codec of DCVC-DC, B frames by `BiECVCInter`.

    Args:
        config: None is the paper's size.
    """

    config_type = BiECVCConfig
    default_structure = RandomAccess(32)
    frame_types = frozenset({FrameType.I, FrameType.B})

    def __init__(self, config: BiECVCConfig | None = None):
        config = config or BiECVCConfig()
        super().__init__(config, lambdas=config.intra.lambdas, intra=DCVCIntra(config.intra), inter=BiECVCInter(config))


VARIANTS: dict[str, BiECVCConfig] = {
    "biecvc": BiECVCConfig(),
    "biecvc-tiny": BiECVCConfig(
        intra=TINY_INTRA,
        features=(8, 16, 24),
        current=(8, 16, 24),
        latent=224,
        hyper=64,
        motion=32,
        head_dim=8,
        estimator="block_matching",
        unet_widths=(8, 16, 32),
        unet_depth=1,
        unets=1,
        shared_quadtree=True,
        prior_width=160,
        shortcut=True,
        motion_shortcut=True,
    ),
}
