"""Parts that the codecs of the DCVC family share: hyper transforms, the contextual codec, reconstruction."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .activation import sigmoid
from .conv import Conv2d, DepthConvBlock, PointwiseConv, ResidualBlock, ResidualDown, ResidualUp, SubpixelConv, UNet
from .gdn import GDN

ContextAt = Callable[[int, Tensor], Tensor]
"""Context of a scale (0 full, 1 half, 2 quarter size) given the current feature there: `(B, D_l, H_l, W_l)`."""


class HyperAnalysis(nn.Sequential):
    """3x3 convolutions with LeakyReLU between: `(B, in, H, W)` to `(B, channels, H / 4, W / 4)`.

    Args:
        in_channels: channels of the latent.
        channels: channels of the hyper latent.
        strides: of each convolution; their product is 4.
    """

    def __init__(self, in_channels: int, channels: int, strides: tuple[int, ...] = (1, 2, 2)):
        layers: list[nn.Module] = []
        for i, stride in enumerate(strides):
            layers += [Conv2d(channels if i else in_channels, channels, stride=stride), nn.LeakyReLU(0.01)]
        super().__init__(*layers[:-1])


class HyperSynthesis(nn.Sequential):
    """Hyper latent `(B, channels, H, W)` to `(B, out, 4H, 4W)`: 3x3 convolutions and two sub-pixel upsamplings.

    Args:
        channels: channels of the hyper latent.
        out_channels: channels of the result.
        wide: inner channels after the first upsampling; None is `channels`.
        up_kernel: kernel of the sub-pixel upsampling.
    """

    def __init__(self, channels: int, out_channels: int, wide: int | None = None, up_kernel: int = 1):
        wide = wide or channels
        super().__init__(
            Conv2d(channels, channels),
            nn.LeakyReLU(0.01),
            SubpixelConv(channels, channels, up_kernel),
            nn.LeakyReLU(0.01),
            Conv2d(channels, wide),
            nn.LeakyReLU(0.01),
            SubpixelConv(wide, wide, up_kernel),
            nn.LeakyReLU(0.01),
            Conv2d(wide, out_channels),
        )


class TemporalPrior(nn.Sequential):
    """Contexts at quarter size `(B, in, H/4, W/4)` to what the latent's prior reads of them, `(B, latent, H/16, W/16)`.

    Args:
        in_channels: of the contexts.
        channels: inner width.
        latent: channels of the latent.
    """

    def __init__(self, in_channels: int, channels: int, latent: int):
        super().__init__(Conv2d(in_channels, channels, stride=2), nn.LeakyReLU(0.1), Conv2d(channels, latent, stride=2))


class MotionEncoder(nn.Module):
    """Flows to a motion latent (reference sheet, sections 3.3 and 4.3).

    Args:
        in_channels: 2 a flow.
        channels: C, inner and latent width.
        references: the largest number of references that bring a motion feature of their own.
    """

    def __init__(self, in_channels: int, channels: int, references: int):
        super().__init__()
        self.down1 = nn.Sequential(ResidualDown(in_channels, channels), DepthConvBlock(channels, channels))
        self.down2 = ResidualDown(channels, channels)
        self.condition = nn.ModuleList(DepthConvBlock((1 + n) * channels, channels) for n in range(references + 1))
        self.down3 = nn.Sequential(
            ResidualDown(channels, channels), DepthConvBlock(channels, channels), Conv2d(channels, channels, stride=2)
        )

    def forward(self, flows: Tensor, features: list[Tensor], gain: Tensor) -> Tensor:
        """Motion latent `(B, C, H/16, W/16)`.

        Args:
            flows: `(B, in, H, W)`, pixels.
            features: motion features of the references that have one, `(B, C, H/4, W/4)` each, past first.
            gain: `(B, C, 1, 1)`.
        """
        out = self.down2(self.down1(flows) * gain)
        return self.down3(self.condition[len(features)](torch.cat([out, *features], dim=1)))


class MotionDecoder(nn.Module):
    """Motion latent `(B, C, H/16, W/16)` to decoded flows and a feature for later frames.

    Args:
        channels: C.
        out_channels: 2 a flow.
    """

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.up1 = nn.Sequential(
            DepthConvBlock(channels, channels),
            ResidualUp(channels, channels),
            DepthConvBlock(channels, channels),
            ResidualUp(channels, channels),
            DepthConvBlock(channels, channels),
        )
        self.up2 = ResidualUp(channels, channels)
        self.flow = nn.Sequential(DepthConvBlock(channels, channels), SubpixelConv(channels, out_channels))

    def forward(self, y_hat: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        """Flows `(B, out, H, W)` in pixels and the motion feature `(B, C, H/4, W/4)`; `gain (B, C, 1, 1)`."""
        feature = self.up1(y_hat)
        return self.flow(self.up2(feature) * gain), feature


def _normalised(convolution: nn.Module, channels: int, gdn: bool, *, inverse: bool = False) -> nn.Module:
    return nn.Sequential(convolution, GDN(channels, inverse=inverse)) if gdn else convolution


class ContextualEncoder(nn.Module):
    """Picture to latent, a context joining at each of three scales.

    Args:
        in_channels: channels of what enters at full size.
        current: widths of the current feature at half and quarter size.
        context: widths of the contexts at full, half and quarter size.
        latent: channels of the latent.
        gdn: normalise after each convolution but the last (DCVC-TCM); residual blocks then start without activation.
    """

    def __init__(
        self,
        in_channels: int,
        current: tuple[int, int],
        context: tuple[int, int, int],
        latent: int,
        *,
        gdn: bool = False,
    ):
        super().__init__()
        half, quarter = current
        self.down1 = _normalised(Conv2d(in_channels + context[0], half, stride=2), half, gdn)
        self.refine1 = ResidualBlock(half + context[1], bottleneck=True, start=not gdn)
        self.down2 = _normalised(Conv2d(half + context[1], quarter, stride=2), quarter, gdn)
        self.refine2 = ResidualBlock(quarter + context[2], bottleneck=True, start=not gdn)
        self.down3 = _normalised(Conv2d(quarter + context[2], quarter, stride=2), quarter, gdn)
        self.down4 = Conv2d(quarter, latent, stride=2)

    def forward(self, feature: Tensor, context: ContextAt, gain: Tensor | float = 1.0) -> Tensor:
        """Latent `(B, latent, H/16, W/16)` of `feature (B, in, H, W)`; `gain (B, half + context[1], 1, 1)`."""
        half = self.down1(torch.cat([feature, context(0, feature)], dim=1))
        half = self.refine1(torch.cat([half, context(1, half)], dim=1)) * gain
        quarter = self.down2(half)
        quarter = self.refine2(torch.cat([quarter, context(2, quarter)], dim=1))
        return self.down4(self.down3(quarter))


class ContextualDecoder(nn.Module):
    """Latent back to a full-size feature, a context joining at half and quarter size.

    Args:
        latent: channels of the latent.
        current: widths of the decoded feature at full, half and quarter size.
        context: widths of the contexts at half and quarter size.
        gdn: normalise after each upsampling but the last (DCVC-TCM); residual blocks then start without activation.
    """

    def __init__(self, latent: int, current: tuple[int, int, int], context: tuple[int, int], *, gdn: bool = False):
        super().__init__()
        full, half, quarter = current
        self.up4 = _normalised(SubpixelConv(latent, quarter, 3), quarter, gdn, inverse=True)
        self.up3 = _normalised(SubpixelConv(quarter, quarter, 3), quarter, gdn, inverse=True)
        self.refine2 = ResidualBlock(quarter + context[1], bottleneck=True, start=not gdn)
        self.up2 = _normalised(SubpixelConv(quarter + context[1], half, 3), half, gdn, inverse=True)
        self.refine1 = ResidualBlock(half + context[0], bottleneck=True, start=not gdn)
        self.up1 = SubpixelConv(half + context[0], full, 3)

    def forward(self, y_hat: Tensor, context: ContextAt, gain: Tensor | float = 1.0) -> Tensor:
        """Feature `(B, full, H, W)` of `y_hat (B, latent, H/16, W/16)`; `gain (B, half, 1, 1)`."""
        quarter = self.up3(self.up4(y_hat))
        quarter = self.refine2(torch.cat([quarter, context(2, quarter)], dim=1))
        half = self.up2(quarter) * gain
        return self.up1(self.refine1(torch.cat([half, context(1, half)], dim=1)))


class Reconstruction(nn.Module):
    """Feature generation and picture: a convolution, UNets, then a convolution to three channels.

    Args:
        in_channels: channels of decoded feature, context and base together.
        channels: channels of the propagated feature.
        widths: of each UNet.
        depth: of each UNet.
        unets: number of UNets.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        widths: tuple[int, int, int] = (32, 64, 128),
        depth: int = 4,
        unets: int = 2,
    ):
        super().__init__()
        self.feature = nn.Sequential(
            Conv2d(in_channels, channels), *[UNet(channels, channels, widths, depth) for _ in range(unets)]
        )
        self.picture = Conv2d(channels, 3)

    def forward(self, decoded: Tensor, context: Tensor, base: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Picture `(B, 3, H, W)` and the propagated feature `(B, channels, H, W)`.

        Args:
            decoded: what the contextual decoder gave, `(B, D, H, W)`.
            context: at full size, `(B, C0, H, W)`.
            base: `(B, 3, H, W)`, joins the input and is added to the picture.
        """
        parts = [decoded, context] if base is None else [decoded, context, base]
        feature = self.feature(torch.cat(parts, dim=1))
        picture = self.picture(feature)
        return picture if base is None else picture + base, feature


class BlendedPrediction(nn.Module):
    """A prediction of the picture from warped references and contexts, for codecs with a linear shortcut.

    CHOICE, in no paper: between two references a mask per pixel, and a learned correction.

    Args:
        channels: of each full-size context.
        references: 1 or 2.
    """

    def __init__(self, channels: int, references: int):
        super().__init__()
        self.references = references
        last = Conv2d(channels, references - 1 + 3)
        self.head = nn.Sequential(DepthConvBlock(references * channels, channels), last)
        quieten(last)

    def forward(self, warped: list[Tensor], contexts: list[Tensor]) -> Tensor:
        """Prediction `(B, 3, H, W)` from warped pictures `(B, 3, H, W)` and contexts `(B, channels, H, W)`."""
        mask, correction = self.head(torch.cat(contexts, dim=1)).split([self.references - 1, 3], dim=1)
        if self.references == 1:
            return warped[0] + correction
        mask = sigmoid(mask)
        return mask * warped[0] + (1 - mask) * warped[1] + correction


class QuietHead(PointwiseConv):
    """1x1 head that starts almost constant: its first `ones` channels at 1, the others at 0.

    For quadtree parameters with `log_scale` this means: step 1, scale and mean as the unit says.
    """

    def __init__(self, in_channels: int, out_channels: int, ones: int = 0):
        super().__init__(in_channels, out_channels)
        nn.init.normal_(self.weight, std=0.1 / in_channels**0.5)
        with torch.no_grad():
            self.get_parameter("bias").zero_()[:ones] = 1.0


def initialise_unit_gain(module: nn.Module, skip: nn.Module | None = None) -> None:
    """Give every convolution outside residual branches a gain of one.

    PyTorch's default shrinks the signal layer by layer until a small codec's latents all round to zero.

    Args:
        module: changed in place.
        skip: a part that has set its own start.
    """
    for child in module.children():
        if child is skip or isinstance(child, (ResidualBlock, QuietHead)):
            continue
        if isinstance(child, DepthConvBlock):
            child = nn.ModuleList([child.spatial.skip])
        if isinstance(child, nn.Conv2d):
            nn.init.normal_(child.weight, std=child.weight[0].numel() ** -0.5)
            nn.init.zeros_(child.get_parameter("bias"))
        else:
            initialise_unit_gain(child, skip)


def quieten(*convolutions: nn.Module) -> None:
    """Scale the weights of last convolutions to a hundredth, in place, so that a shortcut dominates at first."""
    with torch.no_grad():
        for convolution in convolutions:
            convolution.get_parameter("weight").mul_(0.01)
