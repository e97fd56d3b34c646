"""Intra codec of DCVC-DC (also of DCVC-B, BiECVC): "Neural Video Compression with Diverse Contexts", arXiv 2302.14402.

Data flow: x -> analysis -> y -> hyper analysis -> z -> prior -> four-step quadtree -> y_hat -> synthesis -> refine
-> x_hat. The tiny form adds a learned linear block transform around the networks, so that they only learn what is
better than it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..blocks.conv import Conv2d, DepthConvBlock, PointwiseConv, ResidualDown, ResidualUp, UNet
from ..blocks.dcvc import QuietHead, initialise_unit_gain, quieten
from ..blocks.gain import RateGain, RateRule, coefficient_gains, feature_gains
from ..blocks.transform import BlockTransform, LatentScale, soft_limit
from ..codec.picture import FrameInfo, Picture
from ..codec.video import VideoCodec
from ..entropy.coder import LatentCoder
from ..entropy.context import Hyperprior, QuadtreeContext
from ..entropy.distributions import FactorisedPrior
from ..gop import FramePlan, FrameType, LowDelay
from .renaming import Rule, rename

LAMBDAS = (85.0, 170.0, 380.0, 840.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DCVCIntraConfig:
    """Shape of the intra codec.

    Attributes:
        widths: channels at half, quarter and eighth size.
        latent: channels of the latent y.
        hyper: channels of the hyper latent z.
        refine_channels: channels entering the refinement at full size.
        refine_widths: of its UNet.
        refine_depth: of its UNet.
        prior_width: inner width of what reads the latent and of the parameter networks; None widens
            them with the latent, as the paper does.
        gated: gated feed-forward in the blocks, as the paper; the plain one cannot square large values.
        shortcut: the linear block transform (and parameters relative to its coefficients).
        lambdas: rate-distortion weight of each anchor, lowest rate first; D is summed over colours, samples in [0, 1].
        rate_rule: how rates lie between the anchors, see `blocks.gain.RateGain`.
    """

    widths: tuple[int, int, int] = (128, 192, 256)
    latent: int = 256
    hyper: int = 256
    refine_channels: int = 16
    refine_widths: tuple[int, int, int] = (32, 64, 128)
    refine_depth: int = 4
    prior_width: int | None = None
    gated: bool = True
    shortcut: bool = False
    lambdas: tuple[float, ...] = LAMBDAS
    rate_rule: RateRule = "anchors"

    def __post_init__(self) -> None:
        """Check what the layers cannot."""
        if self.latent % 4:
            raise ValueError(f"latent has {self.latent} channels, expected a multiple of 4 for the quadtree")
        if list(self.lambdas) != sorted(self.lambdas) or min(self.lambdas) <= 0:
            raise ValueError(f"lambdas are {self.lambdas}, expected positive and rising (lowest rate first)")


class DCVCIntra(nn.Module):
    """The intra network, a `FrameNetwork` whose frames refer to nothing.

    Args:
        config: its shape.
    """

    def __init__(self, config: DCVCIntraConfig):
        super().__init__()
        half, quarter, eighth = config.widths
        latent, hyper = config.latent, config.hyper
        scales = (1.0,) * len(config.lambdas) if config.shortcut else feature_gains(config.lambdas)
        inverse = tuple(1 / s for s in scales)
        block = partial(DepthConvBlock, gated=config.gated)
        self.config = config

        self.encoder_gain = RateGain(half, scales, rule=config.rate_rule)
        self.decoder_gain = RateGain(half, inverse, rule=config.rate_rule)
        self.analysis1 = nn.Sequential(ResidualDown(3, half), block(half, half))
        self.analysis2 = nn.Sequential(
            ResidualDown(half, quarter),
            block(quarter, quarter),
            ResidualDown(quarter, eighth),
            block(eighth, eighth),
            Conv2d(eighth, latent, stride=2),
        )
        width = config.prior_width or latent
        analysis = nn.Sequential(
            *self._narrowing(config),
            Conv2d(width, hyper, stride=2),
            nn.LeakyReLU(0.01),
            Conv2d(hyper, hyper, stride=2),
        )
        fusion, self.quadtree = self._parameter_networks(config)
        synthesis = nn.Sequential(ResidualUp(hyper, hyper), ResidualUp(hyper, hyper), block(hyper, hyper), *fusion)
        self.hyper = Hyperprior(analysis, FactorisedPrior(hyper), synthesis)
        self.synthesis1 = nn.Sequential(
            *self._narrowing(config),
            ResidualUp(width, eighth),
            block(eighth, eighth),
            ResidualUp(eighth, quarter),
            block(quarter, quarter),
            ResidualUp(quarter, half),
        )
        self.synthesis2 = nn.Sequential(block(half, half), ResidualUp(half, config.refine_channels))
        refine_in = config.refine_channels + (3 if config.shortcut else 0)
        self.refine = nn.Sequential(
            UNet(refine_in, config.refine_channels, config.refine_widths, config.refine_depth, gated=config.gated),
            Conv2d(config.refine_channels, 3),
        )
        if config.shortcut:
            initialise_unit_gain(self)
            self.transform = BlockTransform(latent)
            self.latent_scale = LatentScale(latent, coefficient_gains(config.lambdas))
            quieten(self.analysis2[-1], self.refine[-1])

    @staticmethod
    def _narrowing(config: DCVCIntraConfig) -> list[nn.Module]:
        """From the latent to what reads it: a block as wide as it, or a narrower one behind a 1x1 convolution."""
        width = config.prior_width or config.latent
        block = DepthConvBlock(width, width, gated=config.gated)
        return [block] if width == config.latent else [PointwiseConv(config.latent, width), block]

    @staticmethod
    def _parameter_networks(config: DCVCIntraConfig) -> tuple[nn.Sequential, QuadtreeContext]:
        latent, width = config.latent, config.prior_width
        block = partial(DepthConvBlock, gated=config.gated)
        if width is None:
            fusion = nn.Sequential(block(config.hyper, 2 * latent), block(2 * latent, 3 * latent))
            network = nn.Sequential(
                block(3 * latent, 3 * latent), block(3 * latent, 2 * latent), block(2 * latent, 2 * latent)
            )
        else:
            fusion = nn.Sequential(block(config.hyper, width), QuietHead(width, 3 * latent, ones=latent))
            network = nn.Sequential(block(width, width), block(width, width), QuietHead(width, 2 * latent))
        adaptors: list[nn.Module] = [PointwiseConv(4 * latent, width or 3 * latent) for _ in range(3)]
        quadtree = QuadtreeContext(latent, adaptors, [network] * 3, "gaussian", log_scale=config.shortcut)
        return fusion, quadtree

    def reference(self, picture: Picture, plan: FramePlan) -> None:
        """Nothing: an intra network reads no references."""

    def forward(self, x: Tensor | None, references: tuple[()], coder: LatentCoder, info: FrameInfo) -> Picture:
        """Code one picture.

        Args:
            x: `(B, 3, H, W)` in [0, 1], H and W multiples of 16; None at the decoder.
            references: ().
            coder: estimates, writes or reads.
            info: size, rate and plan.

        Returns:
            The picture, x_hat unclamped.
        """
        gain, unit = self.latent_scale(info.rate) if self.config.shortcut else (None, None)
        y = None if x is None else self._analyse(x, info.rate)
        # what the hyper analysis sees and what is coded: both in units that do not depend on the coefficient
        y_normal = y
        if y is not None and gain is not None:
            y_normal, y = soft_limit(y * gain / unit), y * gain
        prior = self.hyper.code(y_normal, info.latent_shape, coder, "hyper/frame")
        y_hat = self.quadtree.code(y, prior, coder, "frame", unit)
        return Picture(self._synthesise(y_hat, gain, unit, info.rate))

    def _analyse(self, x: Tensor, rate: Tensor) -> Tensor:
        y = self.analysis2(self.analysis1(x) * self.encoder_gain(rate))
        return y + self.transform.analysis(x - 0.5) if self.config.shortcut else y

    def _synthesise(self, y_hat: Tensor, gain: Tensor | None, unit: Tensor | None, rate: Tensor) -> Tensor:
        seen = y_hat if unit is None else soft_limit(y_hat / unit)
        feature = self.synthesis2(self.synthesis1(seen) * self.decoder_gain(rate))
        if gain is None:
            return self.refine(feature)
        linear = self.transform.synthesis(y_hat / gain) + 0.5
        return linear + self.refine(torch.cat([feature, linear], dim=1))


class DCVCDCIntra(VideoCodec):
    """The intra codec alone, every frame an I frame: variant `dcvc-dc-intra`."""

    config_type = DCVCIntraConfig
    default_structure = LowDelay(1)
    frame_types = frozenset({FrameType.I})

    def __init__(self, config: DCVCIntraConfig | None = None):
        config = config or DCVCIntraConfig()
        super().__init__(config, lambdas=config.lambdas, intra=DCVCIntra(config), inter=None)

    @staticmethod
    def convert(checkpoint: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Official DCVC-DC (or DCVC-B) intra checkpoint names to ours, see `convert_intra`."""
        return {"intra": convert_intra(checkpoint)}


VARIANTS: dict[str, DCVCIntraConfig] = {"dcvc-dc-intra": DCVCIntraConfig()}

TINY_INTRA = DCVCIntraConfig(
    widths=(32, 64, 96),
    latent=288,
    hyper=64,
    refine_channels=8,
    refine_widths=(8, 16, 32),
    refine_depth=1,
    prior_width=160,
    gated=False,
    shortcut=True,
)

# Official name pattern -> ours; what follows inside blocks is renamed by BLOCK_NAMES.
INTRA_NAMES: tuple[Rule, ...] = (
    (r"q_basic_enc$", "encoder_gain.basic"),
    (r"q_scale_enc$", "encoder_gain.scale"),
    (r"q_basic_dec$", "decoder_gain.basic"),
    (r"q_scale_dec$", "decoder_gain.scale"),
    (r"bit_estimator_z\.f(\d)\.", lambda m: f"hyper.prior.layers.{int(m[1]) - 1}."),
    (r"enc\.enc_(\d)\.", r"analysis\1."),
    (r"hyper_enc\.", "hyper.analysis."),
    (r"hyper_dec\.", "hyper.synthesis."),
    (r"y_prior_fusion\.(\d)\.", lambda m: f"hyper.synthesis.{3 + int(m[1])}."),
    (r"y_spatial_prior_adaptor_(\d)\.", lambda m: f"quadtree.adaptors.{int(m[1]) - 1}."),
    (r"y_spatial_prior\.", "quadtree.networks.0."),
    (r"dec\.dec_(\d)\.", r"synthesis\1."),
    (r"refine\.", "refine."),
)


def convert_intra(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names of an official DCVC-DC intra checkpoint, see `renaming.rename`."""
    return rename(checkpoint, INTRA_NAMES, "the DCVC-DC intra codec")
