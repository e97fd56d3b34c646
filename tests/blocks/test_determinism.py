"""The blocks that bytes depend on give the same bits for every number of threads; PyTorch's own kernels do not.

7x7 convolutions are left out: only SpyNet has them, and it runs at the encoder alone. A decoder never repeats its
arithmetic, so it may differ.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lvc_zoo.blocks.activation import sigmoid
from lvc_zoo.blocks.alignment import OffsetDiversity
from lvc_zoo.blocks.attention import LinearAttention
from lvc_zoo.blocks.conv import (
    Conv2d,
    DepthConvBlock,
    DWConvBlock,
    PointwiseConv,
    ResidualDown,
    ResidualUp,
    SubpixelConv,
    TransposedConv2d,
    UNet,
)
from lvc_zoo.blocks.dcvc import HyperSynthesis
from lvc_zoo.blocks.gdn import GDN
from lvc_zoo.blocks.motion import flow_pyramid, warp
from lvc_zoo.blocks.recurrent import ConvLSTMCell
from lvc_zoo.blocks.transform import BlockTransform

THREADS = (1, 2, 3)
SIZES = [(1, 1), (2, 3), (3, 3), (5, 5), (6, 10), (17, 33), (45, 80)]
CHANNELS = (8, 24, 64, 192)


@contextmanager
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_each_thread_count(compute: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    results = []
    with restored_threads(), torch.no_grad():
        for threads in THREADS:
            torch.set_num_threads(threads)
            results.append(compute(x))
    return results


class Attention(LinearAttention):
    """Summary and reading of it, of queries, keys and values made from one input."""

    def forward(self, x: Tensor) -> Tensor:
        summary = self.summarise(3 * x, x.flip(-1))
        return torch.cat([summary.flatten(), super().forward(x.flip(1), summary).flatten()])


class Transform(BlockTransform):
    """Synthesis and the analysis of its result."""

    def forward(self, x: Tensor) -> Tensor:
        picture = self.synthesis(x)
        return torch.cat([picture.flatten(), self.analysis(picture).flatten()])


class TwoSteps(ConvLSTMCell):
    """Hidden state and cell after the same input twice."""

    def forward(self, x: Tensor) -> Tensor:
        state = super().forward(x, super().forward(x))
        return torch.cat([state.hidden.flatten(), state.cell.flatten()])


def warp_by_coarse_flow(x: Tensor) -> Tensor:
    pyramid = flow_pyramid(4 * F.interpolate(x[:, :2], scale_factor=4, mode="nearest"), 3)
    warped = [warp(x, pyramid[2], mode).flatten() for mode in ("bilinear", "bicubic")]
    return torch.cat([*(flow.flatten() for flow in pyramid), *warped])


# by name, from channels to the function of an input with as many channels
BLOCKS = {
    "conv3x3": lambda c: Conv2d(c, c),
    "conv3x3-narrowing": lambda c: Conv2d(c, 3),
    "conv3x3-strided": lambda c: Conv2d(c, c, stride=2),
    "conv5x5": lambda c: Conv2d(c, 16, 5),
    "depthwise": lambda c: Conv2d(c, c, groups=c),
    "depthwise-strided": lambda c: Conv2d(c, c, stride=2, groups=c),
    "pointwise": lambda c: PointwiseConv(c, c),
    "pointwise-widening": lambda c: PointwiseConv(c, 4 * c),
    "pointwise-strided": lambda c: PointwiseConv(c, c, stride=2),
    "subpixel": lambda c: SubpixelConv(c, c),
    "subpixel-3x3": lambda c: SubpixelConv(c, c // 2, 3),
    "transposed": lambda c: TransposedConv2d(c, c),
    "transposed-strided": lambda c: TransposedConv2d(c, c // 2, stride=2),
    "gdn": GDN,
    "gdn-inverse": lambda c: GDN(c, inverse=True),
    "depth-conv-block": lambda c: DepthConvBlock(c, c),
    "depth-conv-block-gated": lambda c: DepthConvBlock(c, c // 2, gated=True),
    "dw-conv-block": lambda c: DWConvBlock(c, c),
    "residual-down": lambda c: ResidualDown(c, c),
    "residual-up": lambda c: ResidualUp(c, c // 2),
    "hyper-synthesis": lambda c: HyperSynthesis(c, c // 2),
    "attention": lambda c: Attention(8),
    "block-transform": Transform,
    "conv-lstm": lambda c: TwoSteps(c, c),
    "warp-and-flow-pyramid": lambda c: warp_by_coarse_flow,
}


def assert_equal_bits(results: list[Tensor], what: str) -> None:
    for threads, result in zip(THREADS[1:], results[1:], strict=True):
        assert torch.equal(results[0], result), f"{what}: {threads} threads give other bits than 1"


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", BLOCKS)
def test_block_any_thread_count_gives_same_bits(name, size):
    for channels in CHANNELS:
        torch.manual_seed(channels)
        x = torch.randn(1, channels, *size).contiguous(memory_format=torch.channels_last)
        results = with_each_thread_count(BLOCKS[name](channels), x)
        assert_equal_bits(results, f"{name} with {channels} channels")


@pytest.mark.parametrize("size", [(4, 4), (12, 20), (44, 80)], ids=str)
@pytest.mark.parametrize("gated", [False, True])
def test_unet_any_thread_count_gives_same_bits(gated, size):
    torch.manual_seed(0)
    unet, x = UNet(16, 16, depth=2, gated=gated), torch.randn(1, 16, *size)
    assert_equal_bits(with_each_thread_count(unet, x), "UNet")


# elements: shares of the threads that do not fill whole vector registers
@pytest.mark.parametrize("size", [(100003,), (229381,), (1, 96, 45, 81)], ids=str)
def test_sigmoid_any_thread_count_gives_same_bits(size):
    torch.manual_seed(0)
    x = 3 * torch.randn(size)
    if len(size) == 4:
        x = x.contiguous(memory_format=torch.channels_last)[:, :72]
    assert_equal_bits(with_each_thread_count(sigmoid, x), "sigmoid")
    torch.testing.assert_close(sigmoid(x), torch.sigmoid(x), rtol=0, atol=2e-7)


@pytest.mark.parametrize("size", [(46, 82), (100, 102)], ids=str)
def test_offset_diversity_any_thread_count_gives_same_bits(size):
    torch.manual_seed(0)
    align = OffsetDiversity(24, groups=4)
    feature = torch.randn(1, 24, *size).contiguous(memory_format=torch.channels_last)

    def compute(x: Tensor) -> Tensor:
        return align(x, torch.cat([x, x[:, :3]], dim=1), 4 * x[:, :2])

    assert_equal_bits(with_each_thread_count(compute, feature), "offset diversity")


def test_plain_kernels_differ_between_thread_counts():
    """Shows that the tests above can fail: what the blocks avoid does differ."""
    torch.manual_seed(0)
    weight = torch.randn(24, 192)
    rows, picture = torch.randn(3600, 192), torch.randn(1, 192, 17, 33)
    plain = [
        with_each_thread_count(lambda x: F.linear(x, weight), rows),
        with_each_thread_count(lambda x: F.linear(x, weight), rows[:6]),
        with_each_thread_count(lambda x: F.conv2d(x, weight[:, :, None, None]), picture),
    ]
    assert [int(n) for n in with_each_thread_count(lambda _: torch.tensor(torch.get_num_threads()), rows)] == [*THREADS]
    if all(torch.equal(results[0], other) for results in plain for other in results[1:]):
        pytest.skip("F.linear and a plain 1x1 conv2d do not depend on the number of threads on this machine")
