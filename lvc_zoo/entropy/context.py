"""Context models: the hyperprior, and the four-step quadtree of DCVC-DC that codes a latent in quarters."""

from typing import Literal

import torch
from torch import Tensor, nn

from ..blocks.transform import soft_limit
from .coder import LatentCoder
from .distributions import FAMILIES, FactorisedPrior
from .tables import ScaleTables

# Channel group g of step s is coded at the pixel phase PHASES[s][g] of each 2x2 cell, phases in row-major order.
PHASES = ((0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1), (1, 0, 3, 2))

SCALE_LEVELS = {"gaussian": (0.11, 64.0), "laplace": (0.01, 64.0)}
NUM_SCALE_LEVELS = 64
"""CHOICE: 64 log-spaced levels instead of the reference's 256: a nearest level is at most 7 % off, which costs about
0.1 % of the bits, and grouping symbols by level stays cheap for small frames (`lvc-zoo bench --coder`)."""


class QuadtreeContext(nn.Module):
    """Codes a latent in four steps, each conditioned on the ones before (DCVC-DC, arXiv 2302.14402, Sec. 3.3).

    The channels form four groups; each step codes every group at one of the four pixel phases, so that a step holds
    one symbol per position and group channel. Latent and parameters are normalised by a quantisation step that the
    prior predicts.

    Args:
        channels: channels of the latent, a multiple of 4.
        adaptors: three modules `(B, 4 * channels, H, W)` (latent so far, prior) to the input of their network.
        networks: three modules (they may be one and the same) to `(B, 2 * channels, H, W)`: scales, then means.
        family: "gaussian" or "laplace".
        log_scale: scales are predicted as logarithms relative to `unit`; otherwise directly, as official models do.
    """

    def __init__(
        self,
        channels: int,
        adaptors: list[nn.Module],
        networks: list[nn.Module],
        family: Literal["gaussian", "laplace"],
        *,
        log_scale: bool = False,
    ):
        super().__init__()
        if channels % 4:
            raise ValueError(f"a quadtree needs a multiple of 4 channels, got {channels}")
        self.family = FAMILIES[family]
        self.log_scale = log_scale
        self.adaptors = nn.ModuleList(adaptors)
        # shared networks are stored once; forward indexes modulo
        self.networks = nn.ModuleList(dict.fromkeys(networks))
        low, high = SCALE_LEVELS[family]
        self.tables = ScaleTables(family, NUM_SCALE_LEVELS, low, high)

    def code(
        self, y: Tensor | None, prior: Tensor, coder: LatentCoder, name: str, unit: Tensor | None = None
    ) -> Tensor:
        """Decoded latent.

        Args:
            y: `(B, C, H, W)`, None at the decoder.
            prior: `(B, 3 * C, H, W)`: quantisation step (at least 0.5), scale and mean of the first step.
            coder: estimates, writes or reads.
            name: the steps are named `name/0` to `name/3`.
            unit: `(B or 1, C, 1, 1)`, expected magnitude of each channel; predictions are relative to it.

        Returns:
            y_hat `(B, C, H, W)`.
        """
        step, scale, mean = prior.chunk(3, dim=1)
        step = step.clamp(min=0.5)
        if y is not None:
            y = y / step
        masks = phase_masks(prior.shape[-2], prior.shape[-1], prior.device, prior.dtype)
        y_hat = torch.zeros_like(step)
        for i in range(4):
            if i > 0:
                seen = y_hat if unit is None else soft_limit(y_hat / unit)
                network = self.networks[(i - 1) % len(self.networks)]
                scale, mean = network(self.adaptors[i - 1](torch.cat([seen, prior], dim=1))).chunk(2, dim=1)
            if self.log_scale:
                scale = scale.clamp(-8, 8).exp()
            if unit is not None:
                scale, mean = scale * unit, mean * unit
            distribution = self.family(pack(mean, masks[i]), pack(scale, masks[i]), self.tables)
            packed = coder.code(None if y is None else pack(y, masks[i]), distribution, name=f"{name}/{i}")
            y_hat = y_hat + unpack(packed, masks[i])
        return y_hat * step


def phase_masks(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """For each step and group, 1 where its symbols lie: `(4 steps, 4 groups, 1, H, W)`."""
    row = torch.arange(height, device=device) % 2
    column = torch.arange(width, device=device) % 2
    phase = 2 * row[:, None] + column[None, :]
    order = torch.tensor(PHASES, device=device)
    return (phase == order[:, :, None, None]).to(dtype).unsqueeze(2)


def pack(x: Tensor, mask: Tensor) -> Tensor:
    """Gather one step's positions: `(B, 4 * c, H, W)` to `(B, c, H, W)`; the masks of the groups do not overlap."""
    return (x.unflatten(1, (4, -1)) * mask).sum(dim=1)


def unpack(x: Tensor, mask: Tensor) -> Tensor:
    """Scatter one step's positions back, zero elsewhere: `(B, c, H, W)` to `(B, 4 * c, H, W)`."""
    spread = (x.unsqueeze(1) * mask).flatten(1, 2)
    return spread.contiguous(memory_format=torch.channels_last)


def code_hyper(
    z: Tensor | None, prior: FactorisedPrior, shape: tuple[int, ...], coder: LatentCoder, name: str
) -> Tensor:
    """Decoded hyper latent of `shape (B, C, H, W)` under its factorised prior; `z` is None at the decoder."""
    return coder.code(z, prior.distribution(shape), name=name)
