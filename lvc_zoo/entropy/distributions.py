"""Distributions of quantised latents: continuous for the rate estimate, a table row for the coder."""

import copy
import hashlib
import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks.precision import full_precision
from ..errors import WeightsError
from .tables import ScaleTables, Tables

SCALE_RANGE = (1e-5, 1e10)
LIKELIHOOD_FLOOR = 1e-5
"""Added to a probability before the logarithm, as every released model of the DCVC family does."""


class Distribution(Protocol):
    """What a coder needs to know of the symbols that it codes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the latent, `(B, C, H, W)`."""

    @property
    def mean(self) -> Tensor | float:
        """Subtracted before rounding and added after."""

    @property
    def tables(self) -> Tables:
        """Integer tables of the family."""

    def bits(self, residual: Tensor) -> Tensor:
        """Estimated bits of each residual (latent minus mean), float32, continuous in the scale."""

    def table_index(self) -> Tensor:
        """Row of `tables` for each symbol, int32, the latent's shape."""


class Gaussian(NamedTuple):
    """Normal distributions integrated over unit bins; `scale` is sigma, in quantisation steps."""

    mean: Tensor
    scale: Tensor
    tables: ScaleTables

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the latent."""
        return tuple(self.scale.shape)

    def bits(self, residual: Tensor) -> Tensor:
        """Bits of each residual, float32."""
        with full_precision(residual):
            inverse = 1 / (self.scale.float().clamp(*SCALE_RANGE) * math.sqrt(2))
            magnitude = residual.float().abs()
            mass = 0.5 * (torch.erfc((magnitude - 0.5) * inverse) - torch.erfc((magnitude + 0.5) * inverse))
            return bits_of(mass)

    def table_index(self) -> Tensor:
        """Nearest scale level of each symbol, int32."""
        return self.tables.level_of(self.scale)


class Laplace(NamedTuple):
    """Laplace distributions integrated over unit bins; `scale` is b, in quantisation steps."""

    mean: Tensor
    scale: Tensor
    tables: ScaleTables

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the latent."""
        return tuple(self.scale.shape)

    def bits(self, residual: Tensor) -> Tensor:
        """Bits of each residual, float32."""
        with full_precision(residual):
            scale = self.scale.float().clamp(*SCALE_RANGE)
            magnitude = residual.float().abs()
            far = torch.exp(-(magnitude + 0.5) / scale)
            near = torch.exp(-(magnitude - 0.5).abs() / scale)
            mass = torch.where(magnitude < 0.5, 1 - 0.5 * (near + far), 0.5 * (near - far))
            return bits_of(mass)

    def table_index(self) -> Tensor:
        """Nearest scale level of each symbol, int32."""
        return self.tables.level_of(self.scale)


ScaleFamily = Callable[[Tensor, Tensor, ScaleTables], Distribution]
FAMILIES: dict[str, ScaleFamily] = {"gaussian": Gaussian, "laplace": Laplace}


def bits_of(probability: Tensor) -> Tensor:
    """`max(0, -log2(p + 1e-5))` of each probability."""
    return -torch.log2(probability + LIKELIHOOD_FLOOR).clamp(max=0)


class Factorised(NamedTuple):
    """One learned density per channel, the same at every position; its mean is 0."""

    prior: "FactorisedPrior"
    shape: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Nothing is subtracted before rounding."""
        return 0.0

    @property
    def tables(self) -> Tables:
        """The prior's integer tables."""
        return self.prior.tables

    def bits(self, residual: Tensor) -> Tensor:
        """Bits of each value, float32."""
        with full_precision(residual):
            value = residual.float()
            return bits_of(self.prior.cdf(value + 0.5) - self.prior.cdf(value - 0.5))

    def table_index(self) -> Tensor:
        """The channel of each symbol, int32."""
        channel = torch.arange(self.shape[1], dtype=torch.int32, device=self.prior.tables.counts.device)
        return channel.view(1, -1, 1, 1).expand(self.shape)


class _DensityLayer(nn.Module):
    """One monotone layer of the density: `v = u * softplus(h) + b`, then `v + tanh(v) * tanh(a)` unless last."""

    a: nn.Parameter | None

    def __init__(self, channels: int, *, last: bool):
        super().__init__()
        self.h = nn.Parameter(torch.empty(1, channels, 1, 1).normal_(0, 0.01))
        self.b = nn.Parameter(torch.empty(1, channels, 1, 1).normal_(0, 0.01))
        self.a = None if last else nn.Parameter(torch.empty(1, channels, 1, 1).normal_(0, 0.01))

    def forward(self, u: Tensor) -> Tensor:
        v = u * F.softplus(self.h) + self.b
        return v if self.a is None else v + torch.tanh(v) * torch.tanh(self.a)


class FactorisedPrior(nn.Module):
    """Learned density of a hyper latent, one per channel (Balle et al., arXiv 1802.01436, in the DCVC family's form).

    The integer tables carry the digest of the parameters that they were made from. `eval()` and `rebuild_tables()`
    renew stale tables; loading and coding never do: coding with stale tables is an error.

    Args:
        channels: channels of the hyper latent.
        max_bound: largest magnitude coded without an escape.
    """

    table_source: Tensor

    def __init__(self, channels: int, max_bound: int = 63):
        super().__init__()
        self.layers = nn.ModuleList(_DensityLayer(channels, last=i == 3) for i in range(4))
        self.tables = Tables(channels, max_bound)
        self.register_buffer("table_source", torch.zeros(8, dtype=torch.uint8))

    def distribution(self, shape: tuple[int, ...]) -> Factorised:
        """The distribution of a hyper latent of `shape (B, C, H, W)`."""
        return Factorised(self, tuple(shape))

    def cdf(self, value: Tensor) -> Tensor:
        """Distribution function at `value (B, C, H, W)`."""
        for layer in self.layers:
            value = layer(value)
        return torch.sigmoid(value)

    def parameter_digest(self) -> Tensor:
        """First eight bytes of the SHA-256 of the parameters, uint8."""
        digest = hashlib.sha256()
        for parameter in self.parameters():
            digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
        return torch.tensor(list(digest.digest()[:8]), dtype=torch.uint8, device=self.table_source.device)

    def tables_are_fresh(self) -> bool:
        """Whether the tables were made from the present parameters."""
        return torch.equal(self.table_source, self.parameter_digest())

    @torch.no_grad()
    def rebuild_tables(self) -> None:
        """Make the tables from the present parameters, where they are stale."""
        if self.tables_are_fresh():
            return
        bound = self.tables.max_bound
        edges = torch.arange(-bound - 1, bound + 1, dtype=torch.float64, device=self.table_source.device) + 0.5
        value = edges.view(1, 1, 1, -1).expand(1, self.tables.counts.shape[0], 1, -1)
        exact = copy.deepcopy(self.layers).double()
        for layer in exact:
            value = layer(value)
        self.tables.fill(torch.sigmoid(value)[0, :, 0])
        self.table_source.copy_(self.parameter_digest())

    def train(self, mode: bool = True) -> "FactorisedPrior":
        """Set the mode; entering evaluation renews stale tables."""
        super().train(mode)
        if not mode:
            self.rebuild_tables()
        return self


def check_tables(module: nn.Module) -> None:
    """Refuse to code with a model whose factorised tables do not belong to its parameters.

    Raises:
        WeightsError: naming the prior.
    """
    for name, part in module.named_modules():
        if isinstance(part, FactorisedPrior) and not part.tables_are_fresh():
            raise WeightsError(
                f"the entropy tables of {name} were made from other parameters than it has now; "
                "call .eval() on the codec (after training or editing weights), or save it again"
            )
