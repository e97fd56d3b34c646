"""Intra codec of DCVC-TCM (arXiv 2111.13850): a mean and scale hyperprior with GDN, no autoregression.

Data flow: x -> analysis -> y -> hyper analysis -> z -> hyper synthesis -> scales and means of y -> y_hat -> synthesis
-> x_hat, after Minnen et al., arXiv 1809.02736. A set of weights codes at one rate.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..blocks.conv import Conv2d, ResidualBlock, ResidualDown, ResidualUp, SubpixelConv
from ..blocks.dcvc import HyperAnalysis, HyperSynthesis
from ..blocks.gdn import GDN
from ..blocks.padding import PadMode
from ..codec.picture import FrameInfo, Picture
from ..codec.video import VideoCodec
from ..entropy.coder import LatentCoder
from ..entropy.context import Hyperprior
from ..entropy.distributions import SMALLEST_SCALE, BoundedGaussian, MedianFactorisedPrior
from ..entropy.tables import ScaleTables
from ..gop import FramePlan, FrameType, LowDelay
from .renaming import BLOCK_NAMES, Rule, rename

PAD_MULTIPLE = 64
"""z has a position for each 64x64 pixels, and nothing inside pads the latents."""
PAD_MODE: PadMode = "zeros"
LARGEST_SCALE = 256.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DCVCTCMIntraConfig:
    """Shape of the intra codec.

    Attributes:
        channels: N, of everything inside and of both latents. CHOICE: 192, which the release does not state.
        lambda_rd: rate-distortion weight; D is summed over colours, samples in [0, 1]. The paper's four models have
            256, 512, 1024 and 2048 for the mean over colours, three times as much.
    """

    channels: int = 192
    lambda_rd: float = 1024 / 3

    def __post_init__(self) -> None:
        """Check what the layers cannot."""
        if self.channels % 2:
            raise ValueError(
                f"channels is {self.channels}, expected an even number; the hyper synthesis takes 1.5 of it"
            )
        if self.lambda_rd <= 0:
            raise ValueError(f"lambda_rd is {self.lambda_rd}, expected a positive weight")


class TCMIntra(nn.Module):
    """The intra network, a `FrameNetwork` whose frames refer to nothing.

    Args:
        config: its shape.
    """

    def __init__(self, config: DCVCTCMIntraConfig):
        super().__init__()
        width = config.channels
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for i in range(3):
            down += [ResidualDown(width if i else 3, width, GDN(width)), self._residual(width)]
            up += [self._residual(width), ResidualUp(width, width, 3, GDN(width, inverse=True))]
        self.analysis = nn.Sequential(*down, Conv2d(width, width, stride=2))
        self.hyper = Hyperprior(
            HyperAnalysis(width, width, strides=(1, 1, 2, 1, 2)),
            MedianFactorisedPrior(width),
            HyperSynthesis(width, 2 * width, wide=3 * width // 2, up_kernel=3),
        )
        self.tables = ScaleTables("gaussian", low=SMALLEST_SCALE, high=LARGEST_SCALE, max_bound=1023)
        self.synthesis = nn.Sequential(*up, self._residual(width), SubpixelConv(width, 3, 3))

    @staticmethod
    def _residual(channels: int) -> ResidualBlock:
        return ResidualBlock(channels, start=False, end=True)

    def reference(self, picture: Picture, plan: FramePlan) -> None:
        """Nothing: an intra network reads no references."""

    def forward(self, x: Tensor | None, references: tuple[()], coder: LatentCoder, info: FrameInfo) -> Picture:
        """Code one picture.

        Args:
            x: `(B, 3, H, W)` in [0, 1], H and W multiples of 64; None at the decoder.
            references: ().
            coder: estimates, writes or reads.
            info: size, rate and plan.

        Returns:
            The picture, x_hat unclamped.
        """
        y = None if x is None else self.analysis(x)
        scale, mean = self.hyper.code(y, info.latent_shape, coder, "hyper/frame").chunk(2, dim=1)
        y_hat = coder.code(y, BoundedGaussian(mean, scale, self.tables), name="frame")
        return Picture(self.synthesis(y_hat))


class DCVCTCMIntra(VideoCodec):
    """The intra codec alone, every frame an I frame: variant `dcvc-tcm-intra`.

    Args:
        config: None is the published size.
    """

    config_type = DCVCTCMIntraConfig
    default_structure = LowDelay(1)
    frame_types = frozenset({FrameType.I})
    pad_multiple = PAD_MULTIPLE
    pad_mode = PAD_MODE

    def __init__(self, config: DCVCTCMIntraConfig | None = None):
        config = config or DCVCTCMIntraConfig()
        super().__init__(config, lambdas=(config.lambda_rd,), intra=TCMIntra(config), inter=None)

    @staticmethod
    def convert(checkpoint: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Official intra checkpoint names to ours."""
        return {"intra": convert_tcm_intra(checkpoint)}


VARIANTS: dict[str, DCVCTCMIntraConfig] = {"dcvc-tcm-intra": DCVCTCMIntraConfig()}

# Official name pattern -> ours; what follows inside blocks is renamed by BLOCK_NAMES.
INTRA_NAMES: tuple[Rule, ...] = (
    (r"g_a\.", "analysis."),
    (r"g_s\.", "synthesis."),
    (r"h_a\.", "hyper.analysis."),
    (r"h_s\.", "hyper.synthesis."),
    (r"entropy_bottleneck\._matrices\.(\d)$", r"hyper.prior.layers.\1.matrix"),
    (r"entropy_bottleneck\._biases\.(\d)$", r"hyper.prior.layers.\1.bias"),
    (r"entropy_bottleneck\._factors\.(\d)$", r"hyper.prior.layers.\1.factor"),
    (r"entropy_bottleneck\.quantiles$", "hyper.prior.quantiles"),
)
CONSTANTS = (
    r"_reparam\.(pedestal|lower_bound\.bound)$",
    r"^entropy_bottleneck\.(target|likelihood_lower_bound\.bound)$",
    r"^gaussian_conditional\.(scale_table|scale_bound|likelihood_lower_bound\.bound|lower_bound_scale\.bound)$",
    r"^(entropy_bottleneck|gaussian_conditional)\._(offset|quantized_cdf|cdf_length)$",
)
"""Official buffers: bounds that are the same in every checkpoint, and tables that we make ourselves."""


def convert_tcm_intra(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an official DCVC-TCM intra checkpoint, see `renaming.rename`."""
    kept = {name: tensor for name, tensor in checkpoint.items() if not any(re.search(p, name) for p in CONSTANTS)}
    blocks = ((r"\.i?gdn\.", ".activation."), *BLOCK_NAMES)
    return rename(kept, INTRA_NAMES, "the DCVC-TCM intra codec", blocks)
