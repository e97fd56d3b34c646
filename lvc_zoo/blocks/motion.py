"""Motion: warping, accumulated flows, flow pyramids and SpyNet.

A flow is `(B, 2, H, W)` in pixels, channel 0 horizontal; it lives on the grid of the current frame and points into the
reference.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv import Conv2d


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Sample `x` at each position plus its flow: bilinear, border pixels repeated outside.

    Args:
        x: `(B, C, H, W)`.
        flow: `(B, 2, H, W)`, pixels.

    Returns:
        `(B, C, H, W)`, channels_last.

    Raises:
        ValueError: where the sizes differ.

    Example:
        >>> picture = torch.arange(4.0).reshape(1, 1, 1, 4)
        >>> right = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 1, 4)
        >>> warp(picture, right).flatten().tolist()
        [1.0, 2.0, 3.0, 3.0]
    """
    height, width = x.shape[-2:]
    if flow.shape[1] != 2 or flow.shape[-2:] != x.shape[-2:]:
        raise ValueError(
            f"flow has shape {tuple(flow.shape)}, expected (B, 2, {height}, {width}) to match the picture; "
            "scale it with flow_pyramid"
        )
    columns = torch.linspace(-1.0, 1.0, width, device=x.device, dtype=flow.dtype) if width > 1 else flow.new_zeros(1)
    rows = torch.linspace(-1.0, 1.0, height, device=x.device, dtype=flow.dtype) if height > 1 else flow.new_zeros(1)
    horizontal = columns + flow[:, 0] * (2.0 / max(width - 1, 1))
    vertical = rows[:, None] + flow[:, 1] * (2.0 / max(height - 1, 1))
    # PyTorch's CPU kernel crashes the process on a NaN position; the NaN still reaches the loss through the flow itself
    grid = torch.stack([horizontal, vertical], dim=-1).to(x.dtype).nan_to_num()
    sampled = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return sampled.contiguous(memory_format=torch.channels_last)


def accumulate_flow(flow: Tensor, further: Tensor) -> Tensor:
    """Compose two flows: from the current grid over a reference to that reference's own reference.

    BiECVC eq. (2): `v~(x) = v(x) + u(x + v(x))`.

    Args:
        flow: v, `(B, 2, H, W)`, current frame to reference.
        further: u, `(B, 2, H, W)`, on the reference's grid, to its own reference.

    Returns:
        `(B, 2, H, W)`, current frame to the reference's reference.
    """
    return flow + warp(further, flow)


def flow_pyramid(flow: Tensor, levels: int) -> list[Tensor]:
    """Flow at full, half, quarter, ... size, in pixels of each size.

    Args:
        flow: `(B, 2, H, W)`; H and W divisible by `2 ** (levels - 1)`.
        levels: number of sizes, >= 1.

    Returns:
        `levels` tensors, `(B, 2, H / 2**l, W / 2**l)`.

    Raises:
        ValueError: for an indivisible size.
    """
    height, width = flow.shape[-2:]
    coarsest = 1 << (levels - 1)
    if height % coarsest or width % coarsest:
        raise ValueError(
            f"a flow of {height}x{width} has no {levels} levels, expected multiples of {coarsest}; "
            "pad with blocks.padding.pad_to_multiple"
        )
    pyramid = [flow]
    for _ in range(levels - 1):
        pyramid.append(F.interpolate(pyramid[-1], scale_factor=0.5, mode="bilinear", align_corners=False) / 2)
    return pyramid


def upsample_flow(flow: Tensor) -> Tensor:
    """Double the size of a flow `(B, 2, H, W)` and its vectors, bilinear."""
    return 2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=False)


class SpyNet(nn.Module):
    """Coarse-to-fine optical flow (Ranjan and Black, arXiv 1611.00850), the four-level form of the DVC lineage.

    Args:
        widths: inner channels of each level's network.
        kernel_size: of all its convolutions.
        finest: the finest size is H / 2**finest; its flow is upsampled to full size. The coarsest is H / 8.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 32, 16), kernel_size: int = 7, finest: int = 0):
        super().__init__()
        self.finest = finest
        self.levels = nn.ModuleList(self._level(widths, kernel_size) for _ in range(4 - finest))

    @staticmethod
    def _level(widths: tuple[int, ...], kernel_size: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for n_in, n_out in zip((8, *widths), widths, strict=False):
            layers += [Conv2d(n_in, n_out, kernel_size), nn.ReLU()]
        return nn.Sequential(*layers, Conv2d(widths[-1], 2, kernel_size))

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """Flow from `x` to `reference`, both `(B, 3, H, W)` in [0, 1], H and W multiples of 16; `(B, 2, H, W)`."""
        flow = self.flows(x, reference)[-1]
        for _ in range(self.finest):
            flow = upsample_flow(flow)
        return flow

    def flows(self, x: Tensor, reference: Tensor) -> list[Tensor]:
        """Flows of every level, coarsest first, the last `(B, 2, H / 2**finest, W / 2**finest)`."""
        targets, sources = self._pyramid(x), self._pyramid(reference)
        flow = x.new_zeros(x.shape[0], 2, targets[0].shape[-2] // 2, targets[0].shape[-1] // 2)
        flows = []
        for level, target, source in zip(self.levels, targets, sources, strict=True):
            flow = upsample_flow(flow)
            flow = flow + level(torch.cat([target, warp(source, flow), flow], dim=1))
            flows.append(flow)
        return flows

    def _pyramid(self, x: Tensor) -> list[Tensor]:
        """The picture at every size, coarsest first."""
        for _ in range(self.finest):
            x = F.avg_pool2d(x, 2)
        pyramid = [x]
        for _ in range(len(self.levels) - 1):
            pyramid.insert(0, F.avg_pool2d(pyramid[0], 2))
        return pyramid
