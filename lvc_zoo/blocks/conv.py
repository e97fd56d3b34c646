"""Convolution blocks of the DCVC family: depth-wise, residual, sub-pixel and UNet.

A decoder must repeat the encoder's arithmetic to the last bit, whatever its thread count. On the CPU that holds for
oneDNN's convolutions on channels_last memory, 1x1 included, and for none of MKL's matrix products, whose last columns
round otherwise wherever the threads happen to part (tests/blocks/test_determinism.py measures both). So everything here
is a convolution, and `convolve` sees to it that PyTorch gives it to oneDNN.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST_ELEMENTS = 20481
"""A smaller input of one picture PyTorch convolves by a matrix product (ATen's `use_mkldnn`)."""


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, groups: int = 1) -> Tensor:
    """Convolution with zero padding `kernel_size // 2`, the same for every thread count.

    Args:
        x: `(B, in, H, W)`; best in channels_last memory, which is used without a copy.
        weight: `(out, in / groups, k, k)` with odd k.
        bias: `(out,)`.
        stride: of rows and columns.
        groups: of channels.

    Returns:
        `(B, out, ceil(H / stride), ceil(W / stride))`, channels_last.
    """
    kernel_size, dilation = weight.shape[-1], 1
    if kernel_size == 1:
        # the gradient of a strided 1x1 convolution writes beyond its memory (PyTorch 2.14, AVX-512)
        x, stride = x[:, :, ::stride, ::stride], 1
    batch, channels, height, width = x.shape
    if x.device.type == "cpu":
        if x.numel() < FEWEST_ELEMENTS:
            # zeros beyond the zero padding change no value that is kept
            x = F.pad(x, (0, 0, 0, -(-FEWEST_ELEMENTS // (batch * channels * width)) - height))
        if kernel_size == 1:
            # dilation means nothing to a single tap, but without it PyTorch uses a matrix product on one thread
            dilation = 2
    x = x.contiguous(memory_format=torch.channels_last)
    out = F.conv2d(x, weight, bias, stride, kernel_size // 2, dilation, groups)
    return out[..., : -(-height // stride), :]


class Conv2d(nn.Conv2d):
    """2D convolution with zero padding `kernel_size // 2`, see `convolve`.

    Maps `(B, in_channels, H, W)` to `(B, out_channels, ceil(H / stride), ceil(W / stride))`, channels_last.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, groups: int = 1):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x (B, C, H, W)`."""
        return convolve(x, self.weight, self.bias, self.stride[0], self.groups)


class PointwiseConv(Conv2d):
    """1x1 convolution.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: keep every `stride`-th row and column.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(in_channels, out_channels, kernel_size=1, stride=stride)


class TransposedConv2d(nn.Module):
    """3x3 transposed convolution, `(B, in, H, W)` to `(B, out, stride * H, stride * W)`, see `convolve`.

    The weights are those of `nn.ConvTranspose2d(in, out, 3, stride, padding=1, output_padding=stride - 1)`, `(in, out,
    3, 3)`. Of stride 2 it is one 1x1 convolution that gives every tap's product, and a sum of shifted products.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: 1 or 2.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"stride is {stride}, expected 1 or 2")
        self.stride = stride
        plain = nn.ConvTranspose2d(in_channels, out_channels, 3)
        self.weight = plain.weight
        self.bias = plain.get_parameter("bias")

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, stride * H, stride * W)`."""
        if self.stride == 1:
            return convolve(x, self.weight.transpose(0, 1).flip(2, 3), self.bias)
        products = convolve(x, self.weight.permute(2, 3, 1, 0).flatten(0, 2)[:, :, None, None])
        out = _interleave(_interleave(products, dim=2), dim=3)
        return (out + self.bias[:, None, None]).contiguous(memory_format=torch.channels_last)


def _interleave(products: Tensor, dim: int) -> Tensor:
    """Three taps' products, `(B, 3 * C, H, W)`, to a sum of twice as many samples along `dim` and C channels.

    An even sample lies on an input sample; an odd one after one input sample and before the next.
    """
    before, here, after = products.chunk(3, dim=1)
    ahead = F.pad(before, (0, 1) if dim == 3 else (0, 0, 0, 1)).narrow(dim, 1, before.shape[dim])
    return torch.stack([here, after + ahead], dim=dim + 1).flatten(dim, dim + 1)


class SubpixelConv(nn.Sequential):
    """Convolution to `4 * out_channels`, then pixel-shuffle: `(B, in, H, W)` to `(B, out, 2H, 2W)`.

    Args:
        in_channels: channels of the input.
        out_channels: channels after the shuffle.
        kernel_size: 1 or 3.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1):
        conv = PointwiseConv if kernel_size == 1 else Conv2d
        super().__init__(conv(in_channels, 4 * out_channels), nn.PixelShuffle(2))


class DepthConv(nn.Module):
    """1x1, LeakyReLU, depth-wise 3x3, 1x1, plus a skip (1x1 where the width changes).

    Maps `(B, in, H, W)` to `(B, out, H, W)`.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = PointwiseConv(in_channels, in_channels)
        self.depthwise = Conv2d(in_channels, in_channels, groups=in_channels)
        self.conv2 = PointwiseConv(in_channels, out_channels)
        self.skip = PointwiseConv(in_channels, out_channels) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, H, W)`."""
        return self.conv2(self.depthwise(F.leaky_relu(self.conv1(x), 0.01))) + self.skip(x)


class ConvFFN(nn.Module):
    """Channel feed-forward of DCVC-DC's video blocks: 1x1 to `max(min(4C, 1024), 2C)` and back, identity skip."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(min(4 * channels, 1024), 2 * channels)
        self.conv1 = PointwiseConv(channels, hidden)
        self.conv2 = PointwiseConv(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, C, H, W)`."""
        return x + F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), 0.1)), 0.1)


class GatedConvFFN(nn.Module):
    """Gated channel feed-forward of DCVC-DC's intra blocks: 1x1 to 4C, `u * LeakyReLU(v)`, 1x1 back, identity skip."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = PointwiseConv(channels, 4 * channels)
        self.conv2 = PointwiseConv(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, C, H, W)`."""
        u, v = self.conv1(x).chunk(2, dim=1)
        return x + self.conv2(u * F.leaky_relu(v, 0.1))


class DepthConvBlock(nn.Module):
    """DepthConv followed by a channel feed-forward: `(B, in, H, W)` to `(B, out, H, W)`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        gated: use the gated feed-forward of the intra codec instead of the video codec's.

    Example:
        >>> DepthConvBlock(8, 16)(torch.zeros(1, 8, 4, 6)).shape
        torch.Size([1, 16, 4, 6])
    """

    def __init__(self, in_channels: int, out_channels: int, *, gated: bool = False):
        super().__init__()
        self.spatial = DepthConv(in_channels, out_channels)
        self.ffn = GatedConvFFN(out_channels) if gated else ConvFFN(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, H, W)`."""
        return self.ffn(self.spatial(x))


class DWConvBlock(nn.Module):
    """Embedding block of BiECVC (arXiv 2505.09193, App. B): 1x1 (sets the width), depth-wise 3x3, 1x1, plus a skip.

    Maps `(B, in, H, W)` to `(B, out, H, W)`.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = PointwiseConv(in_channels, out_channels)
        self.depthwise = Conv2d(out_channels, out_channels, groups=out_channels)
        self.conv2 = PointwiseConv(out_channels, out_channels)
        self.skip = PointwiseConv(in_channels, out_channels) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, H, W)`."""
        inner = self.depthwise(F.leaky_relu(self.conv1(x), 0.01))
        return self.conv2(F.leaky_relu(inner, 0.01)) + self.skip(x)


class ResidualBlock(nn.Module):
    """Pre-activated residual block of two 3x3 convolutions, `(B, C, H, W)` to the same shape.

    Args:
        channels: C.
        bottleneck: halve the inner width, slope 0.1 and a closing activation, as in DCVC's contextual codec.
        start: begin with an activation; DCVC-TCM's codecs do not.
        end: close the branch with an activation; None leaves it to `bottleneck`.
    """

    def __init__(self, channels: int, *, bottleneck: bool = False, start: bool = True, end: bool | None = None):
        super().__init__()
        inner = channels // 2 if bottleneck else channels
        self.slope = 0.1 if bottleneck else 0.01
        self.start_activation = start
        self.end_activation = bottleneck if end is None else end
        self.conv1 = Conv2d(channels, inner)
        self.conv2 = Conv2d(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, C, H, W)`."""
        out = self.conv1(F.leaky_relu(x, self.slope) if self.start_activation else x)
        out = self.conv2(F.leaky_relu(out, self.slope))
        return x + (F.leaky_relu(out, self.slope) if self.end_activation else out)


class ResidualDown(nn.Module):
    """Residual block that halves the size: `(B, in, H, W)` to `(B, out, ceil(H / 2), ceil(W / 2))`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        activation: closes the branch; None is LeakyReLU.
    """

    def __init__(self, in_channels: int, out_channels: int, activation: nn.Module | None = None):
        super().__init__()
        self.activation = activation or nn.LeakyReLU(0.1)
        self.conv1 = Conv2d(in_channels, out_channels, stride=2)
        self.conv2 = Conv2d(out_channels, out_channels)
        self.skip = PointwiseConv(in_channels, out_channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, ceil(H / 2), ceil(W / 2))`."""
        out = F.leaky_relu(self.conv1(x), 0.01)
        return self.activation(self.conv2(out)) + self.skip(x)


class ResidualUp(nn.Module):
    """Residual block that doubles the size by pixel-shuffle: `(B, in, H, W)` to `(B, out, 2H, 2W)`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the sub-pixel convolutions, 1 or 3.
        activation: closes the branch; None is LeakyReLU.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, activation: nn.Module | None = None):
        super().__init__()
        self.up = SubpixelConv(in_channels, out_channels, kernel_size)
        self.conv = Conv2d(out_channels, out_channels)
        self.activation = activation or nn.LeakyReLU(0.1)
        self.skip = SubpixelConv(in_channels, out_channels, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, 2H, 2W)`."""
        out = F.leaky_relu(self.up(x), 0.01)
        return self.activation(self.conv(out)) + self.skip(x)


class UNet(nn.Module):
    """Three-scale UNet of DepthConvBlocks, max-pool down and sub-pixel up.

    Maps `(B, in, H, W)` to `(B, out, H, W)`; H and W are multiples of 4.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        widths: channels at full, half and quarter size.
        depth: number of blocks at quarter size after the widening one.
        gated: passed to the blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: tuple[int, int, int] = (32, 64, 128),
        depth: int = 4,
        *,
        gated: bool = False,
    ):
        super().__init__()
        full, half, quarter = widths
        self.down1 = DepthConvBlock(in_channels, full, gated=gated)
        self.down2 = DepthConvBlock(full, half, gated=gated)
        self.down3 = DepthConvBlock(half, quarter, gated=gated)
        self.middle = nn.Sequential(*[DepthConvBlock(quarter, quarter, gated=gated) for _ in range(depth)])
        self.up2 = SubpixelConv(quarter, half)
        self.merge2 = DepthConvBlock(2 * half, half, gated=gated)
        self.up1 = SubpixelConv(half, full)
        self.merge1 = DepthConvBlock(2 * full, out_channels, gated=gated)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, H, W)`."""
        full = self.down1(x)
        half = self.down2(F.max_pool2d(full, 2))
        quarter = self.middle(self.down3(F.max_pool2d(half, 2)))
        half = self.merge2(torch.cat([half, self.up2(quarter)], dim=1))
        return self.merge1(torch.cat([full, self.up1(half)], dim=1))
