import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lvc_zoo.blocks.conv import (
    Conv2d,
    ConvFFN,
    DepthConv,
    DepthConvBlock,
    DWConvBlock,
    GatedConvFFN,
    PointwiseConv,
    ResidualBlock,
    ResidualDown,
    ResidualUp,
    SubpixelConv,
    TransposedConv2d,
    UNet,
    convolve,
)
from tests.gradients import assert_gradients_reach_all

# block, input (C, H, W), output (C, H, W)
SHAPES = {
    "conv": (lambda: Conv2d(5, 7), (5, 6, 9), (7, 6, 9)),
    "strided": (lambda: Conv2d(5, 7, stride=2), (5, 5, 9), (7, 3, 5)),
    "depthwise": (lambda: Conv2d(6, 6, groups=6), (6, 2, 3), (6, 2, 3)),
    "pointwise": (lambda: PointwiseConv(5, 7), (5, 3, 4), (7, 3, 4)),
    "pointwise-strided": (lambda: PointwiseConv(5, 7, stride=2), (5, 3, 4), (7, 2, 2)),
    "subpixel": (lambda: SubpixelConv(5, 3), (5, 3, 4), (3, 6, 8)),
    "subpixel-3x3": (lambda: SubpixelConv(5, 3, 3), (5, 3, 4), (3, 6, 8)),
    "depth-conv": (lambda: DepthConv(5, 7), (5, 3, 4), (7, 3, 4)),
    "ffn": (lambda: ConvFFN(6), (6, 3, 4), (6, 3, 4)),
    "gated-ffn": (lambda: GatedConvFFN(6), (6, 3, 4), (6, 3, 4)),
    "block": (lambda: DepthConvBlock(6, 9), (6, 1, 1), (9, 1, 1)),
    "gated-block": (lambda: DepthConvBlock(6, 9, gated=True), (6, 5, 7), (9, 5, 7)),
    "dw-block": (lambda: DWConvBlock(6, 9), (6, 5, 7), (9, 5, 7)),
    "transposed": (lambda: TransposedConv2d(5, 3), (5, 3, 4), (3, 3, 4)),
    "transposed-strided": (lambda: TransposedConv2d(5, 3, stride=2), (5, 3, 4), (3, 6, 8)),
    "residual": (lambda: ResidualBlock(6), (6, 5, 7), (6, 5, 7)),
    "residual-tcm": (lambda: ResidualBlock(6, start=False, end=True), (6, 5, 7), (6, 5, 7)),
    "bottleneck": (lambda: ResidualBlock(6, bottleneck=True), (6, 5, 7), (6, 5, 7)),
    "down": (lambda: ResidualDown(6, 9), (6, 5, 8), (9, 3, 4)),
    "up": (lambda: ResidualUp(6, 9), (6, 5, 8), (9, 10, 16)),
    "up-3x3": (lambda: ResidualUp(6, 9, 3, nn.Tanh()), (6, 5, 8), (9, 10, 16)),
    "unet": (lambda: UNet(6, 5, (4, 8, 12), 2), (6, 8, 12), (5, 8, 12)),
    "gated-unet": (lambda: UNet(6, 5, (4, 8, 12), 1, gated=True), (6, 4, 4), (5, 4, 4)),
}


@pytest.mark.parametrize(("make", "shape_in", "shape_out"), SHAPES.values(), ids=SHAPES)
def test_block_has_documented_shape_and_gradients(make, shape_in, shape_out):
    torch.manual_seed(0)
    block = make()
    out = block(torch.randn(2, *shape_in))
    assert out.shape == (2, *shape_out)
    assert_gradients_reach_all(block, out)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 5), (17, 33)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_transposed_conv2d_any_size_equals_plain_transposed_convolution(stride, size):
    torch.manual_seed(0)
    conv, x = TransposedConv2d(8, 5, stride), torch.randn(2, 8, *size)
    expected = F.conv_transpose2d(x, conv.weight, conv.bias, stride, padding=1, output_padding=stride - 1)
    torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-5)


def test_transposed_conv2d_of_stride_three_raises():
    with pytest.raises(ValueError, match="stride is 3, expected 1 or 2"):
        TransposedConv2d(2, 2, stride=3)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 5), (17, 33)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "groups"), [(3, 1), (3, 8), (5, 1), (7, 1)])
def test_conv2d_any_size_equals_plain_convolution(kernel, groups, stride, size):
    torch.manual_seed(0)
    conv = Conv2d(8, 16, kernel, stride, groups)
    x = torch.randn(2, 8, *size)
    expected = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), stride, kernel // 2, groups=groups)
    torch.testing.assert_close(conv(x).double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 10)], ids=str)
def test_pointwise_conv_any_size_equals_sum_over_channels(size):
    torch.manual_seed(0)
    conv = PointwiseConv(5, 7)
    x = torch.randn(2, 5, *size)
    weight = conv.weight.double()[:, :, 0, 0]
    expected = torch.einsum("oi,bihw->bohw", weight, x.double()) + conv.bias.double().view(-1, 1, 1)
    torch.testing.assert_close(conv(x).double(), expected, rtol=0, atol=2e-6)


def test_pointwise_conv_with_stride_keeps_even_rows_and_columns():
    conv, x = PointwiseConv(2, 3, stride=2), torch.randn(1, 2, 5, 4)
    assert conv(x).shape == (1, 3, 3, 2)
    torch.testing.assert_close(conv(x)[..., 1, 1], F.conv2d(x[..., 2:3, 2:3], conv.weight, conv.bias)[..., 0, 0])


@pytest.mark.parametrize("size", [(1, 1), (6, 40)], ids=str)
def test_convolve_returns_channels_last(size):
    out = convolve(torch.randn(1, 5, *size), torch.randn(8, 5, 3, 3))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_subpixel_conv_places_channels_row_by_row():
    conv, x = SubpixelConv(3, 2), torch.randn(1, 3, 2, 2)
    mixed, out = conv[0](x), conv(x)
    for channel in range(2):
        for i in range(2):
            for j in range(2):
                assert torch.equal(out[0, channel, i::2, j::2], mixed[0, 4 * channel + 2 * i + j])


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        # reference sheet, section 3.1: a^2 + 9a + ab + [ab where a != b] + 2bh weights, and one bias an output
        (DepthConvBlock(224, 48), 224**2 + 9 * 224 + 2 * 224 * 48 + 2 * 48 * 192 + 3 * 224 + 48 - 224 + 48 + 192 + 48),
        (DepthConvBlock(96, 96), 96**2 + 9 * 96 + 96**2 + 2 * 96 * 384 + 96 + 96 + 96 + 384 + 96),
        (DepthConvBlock(384, 384), 384**2 + 9 * 384 + 384**2 + 2 * 384 * 1024 + 3 * 384 + 1024 + 384),
    ],
)
def test_depth_conv_block_parameter_count_follows_sheet(block, expected):
    assert sum(p.numel() for p in block.parameters()) == expected


def test_intra_refinement_parameter_count_is_published_one():
    """Reference sheet, section 2: UNet2(16 -> 16) and a 3x3 convolution to colours."""
    parts = [UNet(16, 16, gated=True), Conv2d(16, 3)]
    assert sum(p.numel() for part in parts for p in part.parameters()) == 801171
