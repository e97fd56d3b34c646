"""DCVC-TCM: "Temporal Context Mining for Learned Video Compression", arXiv 2111.13850.

Data flow of a P frame: flow (SpyNet) -> motion latent with a hyperprior of its own -> decoded flow -> features of the
reference, warped at three sizes and fused -> contexts -> contextual encoder -> y -> hyperprior and temporal prior ->
y_hat -> contextual decoder -> feature generation -> x_hat. A set of weights codes at one rate.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..blocks.conv import Conv2d, PointwiseConv, ResidualBlock, TransposedConv2d
from ..blocks.dcvc import ContextualDecoder, ContextualEncoder, HyperAnalysis
from ..blocks.fusion import MultiScaleContextFusion
from ..blocks.gdn import GDN
from ..blocks.motion import SpyNet, flow_pyramid, warp
from ..blocks.precision import at_least_float32
from ..blocks.pyramid import FeaturePyramid
from ..codec.picture import FrameInfo, Picture
from ..codec.video import VideoCodec
from ..entropy.coder import LatentCoder
from ..entropy.context import NUM_SCALE_LEVELS, SCALE_LEVELS, Hyperprior
from ..entropy.distributions import FactorisedPrior, Laplace
from ..entropy.tables import ScaleTables
from ..gop import FramePlan, FrameType, LowDelay
from .dcvc_tcm_intra import PAD_MODE, PAD_MULTIPLE, DCVCTCMIntraConfig, TCMIntra, convert_tcm_intra
from .renaming import CONTEXT_NAMES, Rule, owner, rename


@dataclass(frozen=True, slots=True, kw_only=True)
class DCVCTCMConfig:
    """Shape of DCVC-TCM; the defaults are the published model's.

    Attributes:
        intra: its I-frame codec; the rate-distortion weight is taken from there.
        channels: of features, contexts and hyper latents.
        latent: channels of y.
        motion: channels of the motion codec and its latent.
        spynet_widths: inner channels of each flow level.
    """

    intra: DCVCTCMIntraConfig = field(default_factory=DCVCTCMIntraConfig)
    channels: int = 64
    latent: int = 96
    motion: int = 128
    spynet_widths: tuple[int, ...] = (32, 64, 32, 16)

    def __post_init__(self) -> None:
        """Check what the layers cannot."""
        for name, channels in (("channels", self.channels), ("latent", self.latent), ("motion", self.motion)):
            if channels % 2:
                raise ValueError(f"{name} is {channels}, expected an even number; some layers have half of it")


class DCVCTCMState(NamedTuple):
    """What the next frame reads of a P frame besides its picture.

    Attributes:
        feature: propagated feature, `(B, channels, H, W)`.
    """

    feature: Tensor


class DCVCTCMReference(NamedTuple):
    """A reference as the next frame sees it.

    Attributes:
        x_hat: its picture, `(B, 3, H, W)`.
        features: at full, half and quarter size, `(B, channels, ...)` each.
    """

    x_hat: Tensor
    features: list[Tensor]


def make_hyperprior(channels: int, hyper: int) -> Hyperprior:
    """Hyperprior of a latent of C channels whose synthesis, of transposed convolutions, gives 2C."""
    synthesis = nn.Sequential(
        TransposedConv2d(hyper, channels, stride=2),
        nn.LeakyReLU(0.01),
        TransposedConv2d(channels, 3 * channels // 2, stride=2),
        nn.LeakyReLU(0.01),
        TransposedConv2d(3 * channels // 2, 2 * channels),
    )
    return Hyperprior(HyperAnalysis(channels, hyper), FactorisedPrior(hyper), synthesis)


def make_laplace_tables() -> ScaleTables:
    """Tables of a latent."""
    return ScaleTables("laplace", NUM_SCALE_LEVELS, *SCALE_LEVELS["laplace"])


class TCMMotionCodec(nn.Module):
    """A flow from a picture to its reference, through a latent with a hyperprior.

    Args:
        estimator: the flow network, run by the encoder alone.
        channels: C, inner and latent width.
        hyper: channels of the hyper latent.
    """

    def __init__(self, estimator: SpyNet, channels: int, hyper: int):
        super().__init__()
        self.estimator = estimator
        layers: list[nn.Module] = []
        for width in (2, channels, channels):
            layers += [
                Conv2d(width, channels, stride=2),
                GDN(channels),
                ResidualBlock(channels, start=False),
                nn.LeakyReLU(0.1),
            ]
        self.encoder = nn.Sequential(*layers, Conv2d(channels, channels, stride=2))
        self.hyper = make_hyperprior(channels, hyper)
        self.tables = make_laplace_tables()
        self.decoder = nn.Sequential(
            TransposedConv2d(channels, channels, stride=2),
            nn.LeakyReLU(0.1),
            ResidualBlock(channels, start=False),
            GDN(channels, inverse=True),
            TransposedConv2d(channels, channels, stride=2),
            GDN(channels, inverse=True),
            TransposedConv2d(channels, channels, stride=2),
            GDN(channels, inverse=True),
            TransposedConv2d(channels, 2, stride=2),
        )

    def code(self, x: Tensor | None, reference: Tensor, coder: LatentCoder) -> Tensor:
        """Decoded flow `(B, 2, H, W)`.

        Args:
            x: `(B, 3, H, W)`, None at the decoder.
            reference: its picture, `(B, 3, H, W)`.
            coder: estimates, writes or reads.
        """
        batch, _, height, width = reference.shape
        y = None if x is None else self.encoder(self.estimator(x, reference))
        parameters = self.hyper.code(y, (batch, height // 16, width // 16), coder, "hyper/motion")
        scale, mean = parameters.chunk(2, dim=1)
        flow: Tensor = self.decoder(coder.code(y, Laplace(mean, scale, self.tables), name="motion"))
        return at_least_float32(flow)


class ContextMiner(nn.Module):
    """A reference and a flow to contexts at three sizes (Sec. III-C)."""

    def __init__(self, channels: int):
        super().__init__()
        widths = (channels, channels, channels)
        self.adaptor_intra = Conv2d(3, channels)
        self.adaptor_inter = PointwiseConv(channels, channels)
        self.pyramid = FeaturePyramid(widths)
        self.fusion = MultiScaleContextFusion(widths)

    def reference(self, picture: Picture) -> DCVCTCMReference:
        """Features of a picture, for the frame after it."""
        if picture.state is None:
            feature = self.adaptor_intra(picture.x_hat)
        else:
            feature = self.adaptor_inter(picture.state.feature)
        return DCVCTCMReference(picture.x_hat, self.pyramid(feature))

    def forward(self, reference: DCVCTCMReference, flow: Tensor) -> list[Tensor]:
        """Contexts `[(B, C, H, W), (B, C, H/2, W/2), (B, C, H/4, W/4)]`; `flow (B, 2, H, W)`."""
        pairs = zip(reference.features, flow_pyramid(flow, 3), strict=True)
        contexts: list[Tensor] = self.fusion([warp(feature, v) for feature, v in pairs])
        return contexts


class TemporalPrior(nn.Module):
    """Contexts at three sizes to parameters at the latent's, `(B, 2 * latent, H/16, W/16)`."""

    def __init__(self, channels: int, latent: int):
        super().__init__()
        wide = 3 * latent // 2
        self.down1 = nn.Sequential(Conv2d(channels, channels, stride=2), GDN(channels))
        self.down2 = nn.Sequential(Conv2d(2 * channels, latent, stride=2), GDN(latent))
        self.down3 = nn.Sequential(Conv2d(latent + channels, wide, stride=2), GDN(wide))
        self.down4 = Conv2d(wide, 2 * latent, stride=2)

    def forward(self, contexts: list[Tensor]) -> Tensor:
        """Return `(B, 2 * latent, H/16, W/16)`."""
        full, half, quarter = contexts
        out = self.down2(torch.cat([self.down1(full), half], dim=1))
        out = self.down3(torch.cat([out, quarter], dim=1))
        parameters: Tensor = self.down4(out)
        return parameters


class DCVCTCMInter(nn.Module):
    """The P-frame network, a `FrameNetwork`.

    Args:
        config: its shape.
    """

    def __init__(self, config: DCVCTCMConfig):
        super().__init__()
        width, latent = config.channels, config.latent
        current, contexts = (width // 2, width, width), (width, width, width)
        self.motion = TCMMotionCodec(SpyNet(config.spynet_widths), config.motion, width)
        self.miner = ContextMiner(width)
        self.encoder = ContextualEncoder(3, current[1:], contexts, latent, gdn=True)
        self.hyper = make_hyperprior(latent, width)
        self.temporal_prior = TemporalPrior(width, latent)
        self.parameters_of_y = nn.Sequential(
            Conv2d(4 * latent, 10 * latent // 3),
            nn.LeakyReLU(0.01),
            Conv2d(10 * latent // 3, 8 * latent // 3),
            nn.LeakyReLU(0.01),
            Conv2d(8 * latent // 3, 2 * latent),
        )
        self.tables = make_laplace_tables()
        self.decoder = ContextualDecoder(latent, current, contexts[1:], gdn=True)
        self.feature = nn.Sequential(Conv2d(current[0] + width, width), ResidualBlock(width), ResidualBlock(width))
        self.picture = Conv2d(width, 3)

    def reference(self, picture: Picture, plan: FramePlan) -> DCVCTCMReference:
        """Features of a reference; see `ContextMiner.reference`."""
        return self.miner.reference(picture)

    def forward(
        self, x: Tensor | None, references: tuple[DCVCTCMReference], coder: LatentCoder, info: FrameInfo
    ) -> Picture:
        """Code one P frame.

        Args:
            x: `(B, 3, H, W)` in [0, 1], H and W multiples of 64; None at the decoder.
            references: the frame before.
            coder: estimates, writes or reads.
            info: size, rate and plan.

        Returns:
            The picture, x_hat unclamped, with its state and its flow.
        """
        (past,) = references
        flow = self.motion.code(x, past.x_hat, coder)
        contexts = self.miner(past, flow)

        def context(level: int, _: Tensor) -> Tensor:
            return contexts[level]

        y = None if x is None else self.encoder(x, context)
        temporal = self.temporal_prior(contexts)
        hyper = self.hyper.code(y, info.latent_shape, coder, "hyper/frame")
        scale, mean = self.parameters_of_y(torch.cat([temporal, hyper], dim=1)).chunk(2, dim=1)
        y_hat = coder.code(y, Laplace(mean, scale, self.tables), name="frame")

        feature = self.feature(torch.cat([self.decoder(y_hat, context), contexts[0]], dim=1))
        return Picture(self.picture(feature), DCVCTCMState(feature), (flow,))


class DCVCTCM(VideoCodec):
    """Low-delay codec with temporal context mining: variant `dcvc-tcm`.

    Args:
        config: None is the published size.
    """

    config_type = DCVCTCMConfig
    default_structure = LowDelay(32)
    frame_types = frozenset({FrameType.I, FrameType.P})
    pad_multiple = PAD_MULTIPLE
    pad_mode = PAD_MODE

    def __init__(self, config: DCVCTCMConfig | None = None):
        config = config or DCVCTCMConfig()
        lambdas = (config.intra.lambda_rd,)
        super().__init__(config, lambdas=lambdas, intra=TCMIntra(config.intra), inter=DCVCTCMInter(config))

    @staticmethod
    def convert(inter: Mapping[str, Tensor], intra: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Names of the two official checkpoints, video and intra, to ours."""
        return {"inter": rename(inter, VIDEO_NAMES, "the DCVC-TCM video codec"), "intra": convert_tcm_intra(intra)}


VARIANTS: dict[str, DCVCTCMConfig] = {"dcvc-tcm": DCVCTCMConfig()}


# Official name pattern -> ours; what follows inside blocks is named alike.
VIDEO_NAMES: tuple[Rule, ...] = (
    *CONTEXT_NAMES,
    (r"mv_(en|de)coder\.", r"motion.\1coder."),
    (r"(?:(mv)_|contextual_hyper_)prior_encoder\.", lambda m: f"{owner(m[1])}hyper.analysis."),
    (r"(?:(mv)_|contextual_hyper_)prior_decoder\.", lambda m: f"{owner(m[1])}hyper.synthesis."),
    (r"bit_estimator_z(_mv)?\.f(\d)\.", lambda m: f"{owner(m[1])}hyper.prior.layers.{int(m[2]) - 1}."),
    (r"feature_adaptor_I\.", "miner.adaptor_intra."),
    (r"feature_adaptor_P\.", "miner.adaptor_inter."),
    (r"temporal_prior_encoder\.conv4\.", "temporal_prior.down4."),
    (r"temporal_prior_encoder\.conv(\d)\.", r"temporal_prior.down\1.0."),
    (r"temporal_prior_encoder\.gdn(\d)\.", r"temporal_prior.down\1.1."),
    (r"contextual_entropy_parameter\.", "parameters_of_y."),
    (r"contextual_encoder\.conv4\.", "encoder.down4."),
    (r"contextual_encoder\.conv(\d)\.", r"encoder.down\1.0."),
    (r"contextual_encoder\.gdn(\d)\.", r"encoder.down\1.1."),
    (r"contextual_encoder\.res(\d)\.", r"encoder.refine\1."),
    (r"contextual_decoder\.up4\.", "decoder.up1."),
    (r"contextual_decoder\.up(\d)\.", lambda m: f"decoder.up{5 - int(m[1])}.0."),
    (r"contextual_decoder\.gdn(\d)\.", lambda m: f"decoder.up{5 - int(m[1])}.1."),
    (r"contextual_decoder\.res(\d)\.", lambda m: f"decoder.refine{3 - int(m[1])}."),
    (r"recon_generation_net\.feature_conv\.", "feature."),
    (r"recon_generation_net\.recon_conv\.", "picture."),
)
