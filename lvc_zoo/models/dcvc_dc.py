"""DCVC-DC: "Neural Video Compression with Diverse Contexts", arXiv 2302.14402.

Data flow of a P frame: flow (SpyNet) -> motion codec -> decoded flow -> features of the reference, aligned by offset
diversity at full size and warped at the others -> fused contexts -> contextual encoder -> y -> quadtree, which also
knows the contexts and the reference's y_hat -> contextual decoder -> feature generation -> x_hat.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..blocks.adaptor import QualityAdaptor
from ..blocks.alignment import OffsetDiversity
from ..blocks.dcvc import ContextualDecoder, ContextualEncoder, Reconstruction, TemporalPrior
from ..blocks.fusion import MultiScaleContextFusion
from ..blocks.gain import RateGain, feature_gains
from ..blocks.motion import SpyNet, flow_pyramid, warp
from ..blocks.pyramid import FeaturePyramid
from ..codec.picture import FrameInfo, Picture
from ..codec.video import VideoCodec
from ..entropy.coder import LatentCoder
from ..entropy.context import ConditionalQuadtree
from ..entropy.motion import MotionCodec, MotionState
from ..gop import FramePlan, FrameType, LowDelay
from .dcvc_intra import DCVCIntra, DCVCIntraConfig, convert_intra
from .renaming import CONTEXT_NAMES, Rule, owner, rename


@dataclass(frozen=True, slots=True, kw_only=True)
class DCVCDCConfig:
    """Shape of DCVC-DC; the defaults are the published model's.

    Attributes:
        intra: its I-frame codec; lambdas and rate rule are taken from there.
        features: widths of reference features and contexts at full, half and quarter size.
        current: widths of the current feature at the same sizes.
        latent: channels of y.
        hyper: channels of its hyper latent.
        motion: channels of the motion codec and its latents.
        align_groups: groups of channels that offset diversity warps each by flows of their own.
        spynet_widths: inner channels of each flow level.
        unet_widths: of feature generation.
        unet_depth: of feature generation.
    """

    intra: DCVCIntraConfig = field(default_factory=DCVCIntraConfig)
    features: tuple[int, int, int] = (48, 64, 96)
    current: tuple[int, int, int] = (32, 64, 96)
    latent: int = 128
    hyper: int = 128
    motion: int = 64
    align_groups: int = 16
    spynet_widths: tuple[int, ...] = (32, 64, 32, 16)
    unet_widths: tuple[int, int, int] = (32, 64, 128)
    unet_depth: int = 4

    def __post_init__(self) -> None:
        """Check what the layers cannot."""
        for name, channels in (("latent", self.latent), ("motion", self.motion)):
            if channels % 4:
                raise ValueError(f"{name} has {channels} channels, expected a multiple of 4 for the quadtree")


class DCVCDCState(NamedTuple):
    """What the next frame reads of a P frame besides its picture.

    Attributes:
        feature: propagated feature, `(B, D0, H, W)`.
        y_hat: latent, `(B, latent, H/16, W/16)`.
        motion: of the motion codec.
    """

    feature: Tensor
    y_hat: Tensor
    motion: MotionState


class DCVCDCReference(NamedTuple):
    """A reference as the next frame sees it.

    Attributes:
        x_hat: its picture, `(B, 3, H, W)`.
        state: None after an I frame.
        features: at full, half and quarter size.
    """

    x_hat: Tensor
    state: DCVCDCState | None
    features: list[Tensor]


class ContextMiner(nn.Module):
    """A reference and a flow to contexts at three sizes."""

    def __init__(self, config: DCVCDCConfig):
        super().__init__()
        self.adaptor = QualityAdaptor(config.features[0])
        self.pyramid = FeaturePyramid(config.features)
        self.align = OffsetDiversity(config.features[0], config.align_groups)
        self.fusion = MultiScaleContextFusion(config.features)

    def reference(self, picture: Picture, plan: FramePlan) -> DCVCDCReference:
        """Features of a picture, for the frame after it: only that one reads it in low delay."""
        feature = None if picture.state is None else picture.state.feature
        adapted = self.adaptor(picture.x_hat, feature, plan.position + 1)
        return DCVCDCReference(picture.x_hat, picture.state, self.pyramid(adapted))

    def contexts(self, reference: DCVCDCReference, flow: Tensor) -> list[Tensor]:
        """Contexts `[(B, D0, H, W), (B, D1, H/2, W/2), (B, D2, H/4, W/4)]`; `flow (B, 2, H, W)`."""
        full, half, quarter = reference.features
        flows = flow_pyramid(flow, 3)
        aligned = self.align(full, warp(torch.cat([full, reference.x_hat], dim=1), flow), flow)
        return self.fusion([aligned, warp(half, flows[1]), warp(quarter, flows[2])])


class DCVCDCInter(nn.Module):
    """The P-frame network, a `FrameNetwork`.

    Args:
        config: its shape.
    """

    def __init__(self, config: DCVCDCConfig):
        super().__init__()
        full, half, quarter = config.features
        latent = config.latent
        lambdas, rule = config.intra.lambdas, config.intra.rate_rule
        scales = feature_gains(lambdas)

        self.motion = MotionCodec(SpyNet(config.spynet_widths), config.motion, lambdas, rule=rule)
        self.miner = ContextMiner(config)
        self.encoder_gain = RateGain(config.current[1] + half, scales, rule=rule)
        self.encoder = ContextualEncoder(3, config.current[1:], config.features, latent)
        self.temporal_prior = TemporalPrior(quarter, quarter, latent)
        self.latents = ConditionalQuadtree(
            latent,
            config.hyper,
            known=latent,
            references=1,
            inner=3 * latent,
        )
        self.decoder_gain = RateGain(config.current[1], tuple(1 / s for s in scales), rule=rule)
        self.decoder = ContextualDecoder(latent, config.current, config.features[1:])
        self.reconstruction = Reconstruction(
            config.current[0] + full, full, config.unet_widths, config.unet_depth, unets=2
        )

    def reference(self, picture: Picture, plan: FramePlan) -> DCVCDCReference:
        """Features of a reference; see `ContextMiner.reference`."""
        return self.miner.reference(picture, plan)

    def forward(
        self, x: Tensor | None, references: tuple[DCVCDCReference], coder: LatentCoder, info: FrameInfo
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
        known = [state.motion for state in states]
        flows, motion = self.motion.code(x, [past.x_hat], known, coder, info.rate)
        contexts = self.miner.contexts(past, flows[0])

        def context(level: int, _: Tensor) -> Tensor:
            return contexts[level]

        y = None if x is None else self.encoder(x, context, self.encoder_gain(info.rate))
        temporal = self.temporal_prior(contexts[2])
        known_y = [state.y_hat for state in states]
        y_hat = self.latents.code(y, info.latent_shape, coder, "frame", known=[temporal], states=known_y)
        decoded = self.decoder(y_hat, context, self.decoder_gain(info.rate))
        x_hat, feature = self.reconstruction(decoded, contexts[0])
        return Picture(x_hat, DCVCDCState(feature, y_hat, motion), tuple(flows))


class DCVCDC(VideoCodec):
    """Low-delay codec with diverse contexts: variant `dcvc-dc`.

    Args:
        config: None is the published size.
    """

    config_type = DCVCDCConfig
    default_structure = LowDelay(32)
    frame_types = frozenset({FrameType.I, FrameType.P})

    def __init__(self, config: DCVCDCConfig | None = None):
        config = config or DCVCDCConfig()
        super().__init__(config, lambdas=config.intra.lambdas, intra=DCVCIntra(config.intra), inter=DCVCDCInter(config))

    @staticmethod
    def convert(inter: Mapping[str, Tensor], intra: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Names of the two official checkpoints, video and intra, to ours."""
        return {"inter": rename(inter, VIDEO_NAMES, "the DCVC-DC video codec"), "intra": convert_intra(intra)}


VARIANTS: dict[str, DCVCDCConfig] = {"dcvc-dc": DCVCDCConfig()}

# Official name pattern -> ours; what follows inside blocks is renamed by BLOCK_NAMES.
VIDEO_NAMES: tuple[Rule, ...] = (
    *CONTEXT_NAMES,
    (r"(mv_)?y_q_(basic|scale)_enc$", lambda m: f"{owner(m[1])}encoder_gain.{m[2]}"),
    (r"(mv_)?y_q_(basic|scale)_dec$", lambda m: f"{owner(m[1])}decoder_gain.{m[2]}"),
    (r"bit_estimator_z(_mv)?\.f(\d)\.", lambda m: f"{owner(m[1])}latents.hyper.prior.layers.{int(m[2]) - 1}."),
    (r"(?:(mv_)|contextual_)hyper_prior_encoder\.", lambda m: f"{owner(m[1])}latents.hyper.analysis."),
    (r"(?:(mv_)|contextual_)hyper_prior_decoder\.", lambda m: f"{owner(m[1])}latents.hyper.synthesis."),
    (r"(mv_)?y_prior_fusion_adaptor_(\d)\.", lambda m: f"{owner(m[1])}latents.adaptors.{m[2]}."),
    (r"(mv_)?y_prior_fusion\.", lambda m: f"{owner(m[1])}latents.fusion."),
    (
        r"(mv_)?y_spatial_prior_adaptor_(\d)\.",
        lambda m: f"{owner(m[1])}latents.quadtree.adaptors.{int(m[2]) - 1}.",
    ),
    (r"(mv_)?y_spatial_prior\.", lambda m: f"{owner(m[1])}latents.quadtree.networks.0."),
    (r"mv_encoder\.enc_(\d)\.", r"motion.encoder.down\1."),
    (r"mv_encoder\.adaptor_(\d)\.", r"motion.encoder.condition.\1."),
    (r"mv_decoder\.dec_([12])\.", r"motion.decoder.up\1."),
    (r"mv_decoder\.dec_3\.", "motion.decoder.flow."),
    (r"align\.conv_offset\.", "miner.align.predict."),
    (r"align\.fusion\.", "miner.align.fusion."),
    (r"feature_adaptor_I\.", "miner.adaptor.intra."),
    (r"feature_adaptor\.", "miner.adaptor.inter."),
    (r"temporal_prior_encoder\.", "temporal_prior."),
    (r"contextual_encoder\.conv(\d)\.", r"encoder.down\1."),
    (r"contextual_encoder\.res(\d)\.", r"encoder.refine\1."),
    (r"contextual_decoder\.up(\d)\.", lambda m: f"decoder.up{5 - int(m[1])}."),
    (r"contextual_decoder\.res(\d)\.", lambda m: f"decoder.refine{3 - int(m[1])}."),
    (r"recon_generation_net\.first_conv\.", "reconstruction.feature.0."),
    (r"recon_generation_net\.unet_(\d)\.", r"reconstruction.feature.\1."),
    (r"recon_generation_net\.recon_conv\.", "reconstruction.picture."),
)
