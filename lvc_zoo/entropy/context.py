"""Context models: the hyperprior, the quadtree of DCVC-DC that codes a latent in four steps, and both in one."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..blocks.conv import DepthConvBlock, PointwiseConv
from ..blocks.dcvc import HyperAnalysis, HyperSynthesis, QuietHead
from ..blocks.padding import crop_to_size, pad_to_multiple
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


class Hyperprior(nn.Module):
    """A hyper latent between its two transforms: what a latent is like, told before the latent itself.

    Args:
        analysis: latent `(B, C, H, W)`, H and W multiples of 4, to hyper latent `(B, Z, H / 4, W / 4)`.
        prior: of the Z channels.
        synthesis: back to parameters `(B, P, H, W)`.
    """

    def __init__(self, analysis: nn.Module, prior: FactorisedPrior, synthesis: nn.Module):
        super().__init__()
        self.analysis = analysis
        self.prior = prior
        self.synthesis = synthesis

    def code(self, y: Tensor | None, shape: tuple[int, int, int], coder: LatentCoder, name: str) -> Tensor:
        """Parameters `(B, P, H, W)` of a latent whose `shape` is `(B, H, W)`; `y` is None at the decoder."""
        batch, height, width = shape
        z = None if y is None else self.analysis(pad_to_multiple(y, 4))
        distribution = self.prior.distribution((batch, self.prior.channels, -(-height // 4), -(-width // 4)))
        return crop_to_size(self.synthesis(coder.code(z, distribution, name=name)), (height, width))


class ConditionalQuadtree(nn.Module):
    """Hyperprior, contexts and earlier latents fused into the prior of a quadtree (DCVC-DC, Sec. 3.3).

    Args:
        channels: C of the latent.
        hyper: channels of its hyper latent.
        known: channels of the contexts that the fusion sees.
        references: the largest number of states; the fusion has an adaptor for each number.
        inner: channels that the adaptors give.
        strides: of the hyper analysis.
        width: inner width of the parameter networks; None is 3C, the official form with blocks all through. A number
            asks for the small form: 1x1 adaptors, heads that start quiet, scales as logarithms relative to a unit.
        shared: one network for the quadtree's three steps.
    """

    def __init__(
        self,
        channels: int,
        hyper: int,
        *,
        known: int,
        references: int,
        inner: int,
        strides: tuple[int, ...] = (1, 2, 2),
        width: int | None = None,
        shared: bool = True,
    ):
        super().__init__()
        analysis = HyperAnalysis(channels, hyper, strides)
        self.hyper = Hyperprior(analysis, FactorisedPrior(hyper), HyperSynthesis(hyper, hyper))
        adaptor = DepthConvBlock if width is None else PointwiseConv
        counts = range(references + 1)
        self.adaptors = nn.ModuleList(adaptor(known + hyper + n * channels, inner) for n in counts)
        if width is None:
            width = 3 * channels
            self.fusion = nn.Sequential(DepthConvBlock(inner, width), DepthConvBlock(width, width))
            heads: list[nn.Module] = [DepthConvBlock(width, 2 * channels) for _ in range(1 if shared else 3)]
        else:
            self.fusion = nn.Sequential(DepthConvBlock(inner, width), QuietHead(width, 3 * channels, ones=channels))
            heads = [QuietHead(width, 2 * channels) for _ in range(1 if shared else 3)]
        networks: list[nn.Module] = [
            nn.Sequential(DepthConvBlock(width, width), DepthConvBlock(width, width), head) for head in heads
        ]
        adaptors: list[nn.Module] = [PointwiseConv(4 * channels, width) for _ in range(3)]
        is_small = adaptor is PointwiseConv
        self.quadtree = QuadtreeContext(
            channels, adaptors, networks * (3 // len(networks)), "laplace", log_scale=is_small
        )

    def code(
        self,
        y: Tensor | None,
        shape: tuple[int, int, int],
        coder: LatentCoder,
        name: str,
        *,
        known: Sequence[Tensor] = (),
        states: Sequence[Tensor] = (),
        unit: Tensor | None = None,
    ) -> Tensor:
        """Decoded latent `(B, C, H, W)`.

        Args:
            y: the latent, None at the decoder.
            shape: its `(B, H, W)`.
            coder: estimates, writes or reads.
            name: of the latent; the hyper latent is "hyper/" with it.
            known: contexts at the latent's size.
            states: latents of earlier frames, `(B, C, H, W)` each.
            unit: see `QuadtreeContext.code`.
        """
        seen = y if y is None or unit is None else soft_limit(y / unit)
        hyper = self.hyper.code(seen, shape, coder, f"hyper/{name}")
        prior = self.fusion(self.adaptors[len(states)](torch.cat([*known, hyper, *states], dim=1)))
        return self.quadtree.code(y, prior, coder, name, unit)
