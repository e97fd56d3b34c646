"""Motion: warping, accumulated flows, flow pyramids, and two estimators: SpyNet and block matching.

A flow is `(B, 2, H, W)` in pixels, channel 0 horizontal; it lives on the grid of the current frame and points into the
reference.
"""

from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv import Conv2d
from .precision import at_least_float32, full_precision


def warp(x: Tensor, flow: Tensor, mode: Literal["bilinear", "bicubic"] = "bilinear") -> Tensor:
    """Sample `x` at each position plus its flow, border pixels repeated outside.

    Args:
        x: `(B, C, H, W)`.
        flow: `(B, 2, H, W)`, pixels.
        mode: of interpolation; "bicubic" keeps detail at fractional positions.

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
    # in bfloat16 a position is up to half a pixel off at the border of a 256 pixel wide picture
    flow, source = at_least_float32(flow), at_least_float32(x)
    columns = torch.linspace(-1.0, 1.0, width, device=x.device, dtype=flow.dtype) if width > 1 else flow.new_zeros(1)
    rows = torch.linspace(-1.0, 1.0, height, device=x.device, dtype=flow.dtype) if height > 1 else flow.new_zeros(1)
    horizontal = columns + flow[:, 0] * (2.0 / max(width - 1, 1))
    vertical = rows[:, None] + flow[:, 1] * (2.0 / max(height - 1, 1))
    # PyTorch's CPU kernel crashes the process on a NaN position; the NaN still reaches the loss through the flow itself
    grid = torch.stack([horizontal, vertical], dim=-1).to(source.dtype).nan_to_num()
    sampled = F.grid_sample(source, grid, mode=mode, padding_mode="border", align_corners=True)
    return sampled.to(x.dtype).contiguous(memory_format=torch.channels_last)


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


EstimatorName = Literal["spynet", "block_matching"]


def flow_estimator(name: EstimatorName, widths: tuple[int, ...], kernel_size: int, finest: int) -> nn.Module:
    """The flow estimator of a name; the other arguments are `SpyNet`'s."""
    return SpyNet(widths, kernel_size, finest) if name == "spynet" else BlockMatching()


class BlockMatching(nn.Module):
    """Flow by block matching, constant in blocks of 8x8: a classical estimator without parameters.

    Blocks of 16x16 are searched at quarter size, then refined to a quarter of a pixel, then split in four where that
    pays. Vectors away from their neighbours' cost extra, so that the flow stays cheap to code. For encoders only: no
    gradient passes, and the result need not be the same on every machine.

    Args:
        reach: largest displacement of the first search, in pixels, a multiple of 4.
        smoothness: mean absolute difference (of pictures in [0, 1]) that a vector may cost a doubling of its difference
            from what it is predicted by.
    """

    BLOCK = 16

    def __init__(self, reach: int = 24, smoothness: float = 5e-4):
        super().__init__()
        self.reach = reach
        self.smoothness = smoothness

    @torch.no_grad()
    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """Flow from `x` to `reference`, both `(B, 3, H, W)` in [0, 1], H and W multiples of 16; `(B, 2, H, W)`."""
        with full_precision(x):
            target, source = (picture.float().mean(dim=1, keepdim=True) for picture in (x, reference))
            flow = self._coarse(target, source)
            search = _Search(target, source, self.BLOCK, self.smoothness)
            search.start(flow)
            search.try_neighbours()
            for step in (2.0, 1.0, 0.5, 0.25):
                search.refine(step)
            search.try_neighbours()
            split = _Search(target, source, self.BLOCK // 2, self.smoothness)
            split.start(F.interpolate(search.flow, scale_factor=2, mode="nearest"))
            split.try_neighbours()
            for step in (0.5, 0.25):
                split.refine(step)
            return F.interpolate(split.flow, scale_factor=self.BLOCK // 2, mode="nearest")

    def _coarse(self, target: Tensor, source: Tensor) -> Tensor:
        """Best displacement of each block at quarter size, in pixels of the full size, `(B, 2, H/16, W/16)`."""
        target, source = F.avg_pool2d(target, 4), F.avg_pool2d(source, 4)
        height, width = target.shape[-2:]
        reach = self.reach // 4
        padded = F.pad(source, (reach,) * 4, mode="replicate")
        shifts = sorted(product(range(-reach, reach + 1), repeat=2), key=lambda shift: abs(shift[0]) + abs(shift[1]))
        best, flow = None, target.new_zeros(target.shape[0], 2, height // 4, width // 4)
        for down, right in shifts:
            moved = padded[..., reach + down : reach + down + height, reach + right : reach + right + width]
            # a window of twice the block, since a block has only 16 samples here
            cost = F.avg_pool2d((target - moved).abs(), 8, 4, 2, count_include_pad=False)
            cost = cost + self.smoothness * _code_length(cost.new_tensor([4.0 * right, 4.0 * down]).view(1, 2, 1, 1))
            if best is None:
                best = cost
                continue
            flow = torch.where(cost < best, cost.new_tensor([4.0 * right, 4.0 * down]).view(1, 2, 1, 1), flow)
            best = torch.minimum(cost, best)
        return flow


class _Search:
    """Vectors of blocks, improved candidate by candidate."""

    def __init__(self, target: Tensor, source: Tensor, block: int, smoothness: float):
        self._target, self._source, self._block, self._smoothness = target, source, block, smoothness

    def start(self, flow: Tensor) -> None:
        """Begin with a flow `(B, 2, H/block, W/block)`, which also predicts: leaving it costs."""
        self._predicted = self.flow = flow
        self._cost = self._cost_of(flow)

    def try_neighbours(self) -> None:
        """The vectors of the four neighbours, their median and none at all."""
        padded = F.pad(self.flow, (1, 1, 1, 1), mode="replicate")
        around = [padded[..., 1:-1, :-2], padded[..., 1:-1, 2:], padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]]
        median = torch.stack([*around, self.flow]).median(dim=0).values
        self._predicted = median
        self._cost = self._cost_of(self.flow)
        for candidate in (*around, median, torch.zeros_like(self.flow)):
            self._try(candidate)

    def refine(self, step: float) -> None:
        """The eight vectors around the present ones, `step` pixels away."""
        centre = self.flow
        for right, down in product((-step, 0.0, step), repeat=2):
            if right or down:
                self._try(centre + centre.new_tensor([right, down]).view(1, 2, 1, 1))

    def _try(self, candidate: Tensor) -> None:
        cost = self._cost_of(candidate)
        self.flow = torch.where(cost < self._cost, candidate, self.flow)
        self._cost = torch.minimum(cost, self._cost)

    def _cost_of(self, flow: Tensor) -> Tensor:
        moved = warp(self._source, F.interpolate(flow, scale_factor=self._block, mode="nearest"))
        difference = F.avg_pool2d((moved - self._target).abs(), self._block)
        area = (BlockMatching.BLOCK / self._block) ** 2
        return difference + self._smoothness * area * _code_length(flow - self._predicted)


def _code_length(vector: Tensor) -> Tensor:
    """Roughly the bits of a vector `(B, 2, ...)` in quarter pixels, `(B, 1, ...)`."""
    return torch.log2(1 + 4 * vector.abs()).sum(dim=1, keepdim=True)
