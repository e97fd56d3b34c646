"""Intra codec of DCVC-DC (also of DCVC-B, BiECVC): "Neural Video Compression with Diverse Contexts", arXiv 2302.14402.

Data flow: x -> analysis -> y -> hyper analysis -> z -> prior -> four-step quadtree -> y_hat -> synthesis -> refine
-> x_hat. The tiny form adds a learned linear block transform around the networks, so that they only learn what is
better than it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..blocks.conv import Conv2d, DepthConvBlock, PointwiseConv, ResidualDown, ResidualUp, UNet
from ..blocks.dcvc import QuietHead, initialise_unit_gain, quieten
from ..blocks.gain import RateGain
from ..blocks.padding import pad_to_multiple
from ..blocks.transform import BlockTransform, soft_limit
from ..codec.picture import FrameInfo, Picture
from ..codec.video import VideoCodec
from ..entropy.coder import LatentCoder
from ..entropy.context import QuadtreeContext, code_hyper
from ..entropy.distributions import FactorisedPrior
from ..errors import WeightsError
from ..gop import FramePlan, FrameType, LowDelay

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
        prior_width: inner width of the parameter networks; None widens them with the latent, as the paper does.
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
    rate_rule: Literal["anchors", "geometric"] = "anchors"

    def __post_init__(self) -> None:
        """Check what the layers cannot."""
        if self.latent % 4:
            raise ValueError(f"latent has {self.latent} channels, expected a multiple of 4 for the quadtree")
        if list(self.lambdas) != sorted(self.lambdas) or min(self.lambdas) <= 0:
            raise ValueError(f"lambdas are {self.lambdas}, expected positive and rising (lowest rate first)")


def feature_gains(lambdas: tuple[float, ...]) -> tuple[float, ...]:
    """CHOICE: initial gains inside a network, in proportion to sqrt(lambda), geometric mean 1."""
    middle = (lambdas[0] * lambdas[-1]) ** 0.5
    return tuple((value / middle) ** 0.5 for value in lambdas)


def coefficient_gains(lambdas: tuple[float, ...]) -> tuple[float, ...]:
    """CHOICE: initial gains of orthonormal coefficients; a step of sqrt(2 / lambda) balances rate and distortion."""
    return tuple((value / 2) ** 0.5 for value in lambdas)


class LatentScale(nn.Module):
    """Magnitudes of a block transform's coefficients: what the parameter networks' predictions are relative to.

    Args:
        channels: of the latent.
        lambdas: see `coefficient_gains`.
    """

    def __init__(self, channels: int, lambdas: tuple[float, ...], layers: int = 1):
        super().__init__()
        # CHOICE: 1 / f spectrum until `start_from` sets measured values
        spectrum = 1.0 / torch.arange(1, channels + 1)
        self.log_deviation = nn.Parameter(spectrum.log().view(1, -1, 1, 1))
        self.gain = RateGain(channels, coefficient_gains(lambdas), layers)

    def forward(self, rate: Tensor, layer: int = 0) -> tuple[Tensor, Tensor]:
        """Gain and unit (expected magnitude after the gain), both `(B, C, 1, 1)`, for `rate (B,)`."""
        gain = self.gain(rate, layer)
        return gain, gain * self.log_deviation.exp()

    @torch.no_grad()
    def start_from(self, deviation: Tensor) -> None:
        """Set the coefficients' standard deviations `(C,)`, measured on training data."""
        self.log_deviation.copy_(deviation.clamp(min=1e-4).log().view(1, -1, 1, 1))


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
        self.hyper_analysis = nn.Sequential(
            block(latent, latent),
            Conv2d(latent, hyper, stride=2),
            nn.LeakyReLU(0.01),
            Conv2d(hyper, hyper, stride=2),
        )
        self.hyper_prior = FactorisedPrior(hyper)
        self.hyper_synthesis = nn.Sequential(ResidualUp(hyper, hyper), ResidualUp(hyper, hyper), block(hyper, hyper))
        self.prior_fusion, self.quadtree = self._parameter_networks(config)
        self.synthesis1 = nn.Sequential(
            block(latent, latent),
            ResidualUp(latent, eighth),
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
            self.latent_scale = LatentScale(latent, config.lambdas)
            quieten(self.analysis2[-1], self.refine[-1])

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
        z = None if y_normal is None else self.hyper_analysis(pad_to_multiple(y_normal, 4))
        height, width = info.size[0] // 16, info.size[1] // 16
        z_shape = (info.rate.shape[0], self.config.hyper, -(-height // 4), -(-width // 4))
        z_hat = code_hyper(z, self.hyper_prior, z_shape, coder, "hyper/frame")

        prior = self.prior_fusion(self.hyper_synthesis(z_hat))[..., :height, :width]
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
    latent=192,
    hyper=64,
    refine_channels=8,
    refine_widths=(8, 16, 32),
    refine_depth=1,
    prior_width=160,
    gated=False,
    shortcut=True,
)

# Official name pattern -> ours; what follows inside blocks is renamed by BLOCK_NAMES.
INTRA_NAMES = (
    (r"q_basic_enc$", "encoder_gain.basic"),
    (r"q_scale_enc$", "encoder_gain.scale"),
    (r"q_basic_dec$", "decoder_gain.basic"),
    (r"q_scale_dec$", "decoder_gain.scale"),
    (r"bit_estimator_z\.f(\d)\.", lambda m: f"hyper_prior.layers.{int(m[1]) - 1}."),
    (r"enc\.enc_(\d)\.", r"analysis\1."),
    (r"hyper_enc\.", "hyper_analysis."),
    (r"hyper_dec\.", "hyper_synthesis."),
    (r"y_prior_fusion\.", "prior_fusion."),
    (r"y_spatial_prior_adaptor_(\d)\.", lambda m: f"quadtree.adaptors.{int(m[1]) - 1}."),
    (r"y_spatial_prior\.", "quadtree.networks.0."),
    (r"dec\.dec_(\d)\.", r"synthesis\1."),
    (r"refine\.", "refine."),
)
BLOCK_NAMES: tuple[tuple[str, Any], ...] = (
    (r"\bblock\.0\.conv1\.0\.", "spatial.conv1."),
    (r"\bblock\.0\.depth_conv\.", "spatial.depthwise."),
    (r"\bblock\.0\.conv2\.", "spatial.conv2."),
    (r"\bblock\.0\.adaptor\.", "spatial.skip."),
    (r"\bblock\.1\.conv\.", "ffn.conv1."),
    (r"\bblock\.1\.conv_out\.", "ffn.conv2."),
    (r"\bdownsample\.", "skip."),
    (r"\bsubpel_conv\.0\.", "up.0."),
    (r"\bupsample\.0\.", "skip.0."),
    (r"(refine\.0)\.conv(\d)\.", r"\1.down\2."),
    (r"\bcontext_refine\.", "middle."),
    (r"\bup_conv(\d)\.", lambda m: f"merge{int(m[1]) - 1}."),
    (r"(refine\.0)\.up(\d)\.", lambda m: f"{m[1]}.up{int(m[2]) - 1}."),
)


def convert_intra(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an official DCVC-DC intra checkpoint.

    Args:
        checkpoint: official names to tensors.

    Returns:
        Our names to the same tensors (no tables: `models.checkpoint.convert_checkpoint` has them built).

    Raises:
        WeightsError: for names that the rules do not know.
    """
    converted, unknown = {}, []
    for name, tensor in checkpoint.items():
        for pattern, replacement in INTRA_NAMES:
            renamed, count = re.subn("^" + pattern, replacement, name)
            if count:
                break
        else:
            unknown.append(name)
            continue
        for pattern, replacement in BLOCK_NAMES:
            renamed = re.sub(pattern, replacement, renamed)
        converted[renamed] = tensor
    if unknown:
        raise WeightsError(
            f"checkpoint entry {', '.join(map(repr, unknown[:8]))}{', ...' if len(unknown) > 8 else ''} is not a name "
            f"of the DCVC-DC intra codec ({len(unknown)} of {len(checkpoint)} are not); wrong file or wrong variant?"
        )
    return converted
