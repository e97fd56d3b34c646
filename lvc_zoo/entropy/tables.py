"""Integer probability tables: what the entropy coder codes with, stored with the weights.

A table set has one row a level (a scale, or a channel of a factorised prior). Row i covers the symbols -b..b with
b = `bounds[i]`, then one escape symbol for everything outside; its counts sum to `TOTAL`. Shapes never change, so a
state dict always fits.
"""

import hashlib
import math

import torch
from torch import Tensor, nn

TOTAL = 1 << 16
TAIL = 1e-4
"""Probability outside a row's bound, the paper family's 0.9999 quantile."""


class Tables(nn.Module):
    """Integer counts for `levels` distributions over symbols up to `max_bound` in magnitude.

    Buffers: `counts` `(levels, 2 * max_bound + 2)` int32, zero beyond a row's own `2b + 2` entries, and `bounds`
    `(levels,)` int32.

    Args:
        levels: number of rows.
        max_bound: the largest magnitude that any row codes without an escape, >= 1.
    """

    counts: Tensor
    bounds: Tensor

    def __init__(self, levels: int, max_bound: int):
        super().__init__()
        if levels < 1 or max_bound < 1:
            raise ValueError(f"got {levels} levels and max_bound {max_bound}, expected both >= 1")
        self.max_bound = max_bound
        self.register_buffer("counts", torch.zeros(levels, 2 * max_bound + 2, dtype=torch.int32))
        self.register_buffer("bounds", torch.zeros(levels, dtype=torch.int32))

    def fill(self, cdf: Tensor) -> None:
        """Set every row from its distribution function.

        Args:
            cdf: `(levels, 2 * max_bound + 2)` float64, the probability of lying below -max_bound - 1/2, ...,
                max_bound + 1/2.
        """
        centre = self.max_bound
        mass = cdf[:, 1:] - cdf[:, :-1]
        for level, (row, row_cdf) in enumerate(zip(mass.tolist(), cdf.tolist(), strict=True)):
            bound = next(
                (b for b in range(1, centre) if row_cdf[centre - b] + 1 - row_cdf[centre + b + 1] < TAIL), centre
            )
            inside = row[centre - bound : centre + bound + 1]
            counts = integer_counts([*inside, max(0.0, 1.0 - math.fsum(inside))])
            self.bounds[level] = bound
            self.counts[level] = 0
            self.counts[level, : len(counts)] = torch.tensor(counts, dtype=torch.int32)

    def ideal_bits(self, index: Tensor, symbols: Tensor) -> Tensor:
        """Code length of symbols under the integer counts, escapes included, float64 of the same shape.

        Args:
            index: int, any shape, the level of each symbol.
            symbols: int, same shape.
        """
        index = index.long()
        bound = self.bounds[index].long()
        escape = symbols.abs() > bound
        column = torch.where(escape, 2 * bound + 1, symbols.long() + bound)
        bits = -torch.log2(self.counts[index, column].double() / TOTAL)
        beyond = 2 * (symbols.abs().long() - bound - 1).clamp(min=0) + (symbols < 0)
        extra = math.log2(ESCAPE_CLASSES) + torch.floor(torch.log2((beyond + 1).double()))
        return bits + torch.where(escape, extra, 0.0)


ESCAPE_CLASSES = 24
"""An escaped symbol's excess is coded as its number of bits (uniform over the classes), then those bits."""


def integer_counts(probabilities: list[float]) -> list[int]:
    """Integers >= 1 that sum to `TOTAL`, in proportion to `probabilities` (float, sum about 1)."""
    free = TOTAL - len(probabilities)
    total = math.fsum(probabilities)
    counts = [1 + math.floor(free * p / total) for p in probabilities]
    counts[counts.index(max(counts))] += TOTAL - sum(counts)
    return counts


class ScaleTables(Tables):
    """Tables of a zero-mean family on log-spaced scale levels; a scale takes the nearest level.

    Args:
        family: "gaussian" (scale = sigma) or "laplace" (scale = b).
        levels: number of scales, >= 2.
        low: smallest scale, in quantisation steps.
        high: largest scale.
        max_bound: see `Tables`.
    """

    boundaries: Tensor

    def __init__(self, family: str, levels: int = 64, low: float = 0.11, high: float = 64.0, max_bound: int = 255):
        super().__init__(levels, max_bound)
        if family not in CDFS:
            raise ValueError(f"unknown family {family!r}, expected one of {', '.join(CDFS)}")
        step = math.log(high / low) / (levels - 1)
        scales = torch.tensor([low * math.exp(step * i) for i in range(levels)], dtype=torch.float64)
        # the geometric middle of neighbours: nearest in the logarithm, found by comparisons alone
        self.register_buffer("boundaries", (scales[1:] * scales[:-1]).sqrt().float())
        edges = torch.arange(-max_bound - 1, max_bound + 1, dtype=torch.float64) + 0.5
        self.fill(CDFS[family](edges[None, :] / scales[:, None]))

    def level_of(self, scale: Tensor) -> Tensor:
        """Nearest level of each scale, int32 of the same shape."""
        return torch.bucketize(scale.detach().float().contiguous(), self.boundaries, out_int32=True)


def _gaussian_cdf(x: Tensor) -> Tensor:
    return 0.5 * torch.special.erfc(-x / math.sqrt(2))


def _laplace_cdf(x: Tensor) -> Tensor:
    tail = 0.5 * torch.exp(-x.abs())
    return torch.where(x < 0, tail, 1 - tail)


CDFS = {"gaussian": _gaussian_cdf, "laplace": _laplace_cdf}


def table_digest(module: nn.Module) -> str:
    """SHA-256 hex of every table below `module`, by name: what writer and reader must share."""
    digest = hashlib.sha256()
    for name, part in module.named_modules():
        if isinstance(part, Tables):
            for buffer_name, buffer in part.named_buffers(recurse=False):
                digest.update(f"{name}.{buffer_name}{tuple(buffer.shape)}".encode())
                digest.update(buffer.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
