"""Distributions of quantised latents: continuous for the rate estimate, a table row for the coder."""

import copy
import hashlib
import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks.bound import at_least
from ..blocks.precision import full_precision
from ..errors import WeightsError
from .tables import ScaleTables, Tables

SCALE_RANGE = (1e-5, 1e10)
LIKELIHOOD_FLOOR = 1e-5
"""Added to a probability before the logarithm, as every released model of the DCVC family does."""

LARGEST_HYPER_SYMBOL = 47
"""CHOICE: the largest magnitude of a hyper latent coded without an escape; trained priors here end at 30."""

SMALLEST_SCALE = 0.11
SMALLEST_LIKELIHOOD = 1e-9
"""Bounds of sigma and of a probability in the codecs of Balle et al., which add nothing to it."""


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


class Scaled(NamedTuple):
    """Mean and scale of each symbol of a latent, both `(B, C, H, W)`, and the tables of the family's scale levels."""

    mean: Tensor
    scale: Tensor
    tables: ScaleTables

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the latent."""
        return tuple(self.scale.shape)

    def table_index(self) -> Tensor:
        """Nearest scale level of each symbol, int32."""
        return self.tables.level_of(self.scale)


class Gaussian(Scaled):
    """Normal distributions integrated over unit bins; `scale` is sigma, in quantisation steps."""

    __slots__ = ()

    def bits(self, residual: Tensor) -> Tensor:
        """Bits of each residual, float32."""
        with full_precision(residual):
            return bits_of(_gaussian_mass(residual.float(), self.scale.float().clamp(*SCALE_RANGE)))


class BoundedGaussian(Scaled):
    """As `Gaussian`, in the form of Balle et al. (arXiv 1802.01436): sigma and probability are bounded from below."""

    __slots__ = ()

    def bits(self, residual: Tensor) -> Tensor:
        """Bits of each residual, float32."""
        with full_precision(residual):
            return bounded_bits_of(_gaussian_mass(residual.float(), at_least(self.scale.float(), SMALLEST_SCALE)))


def _gaussian_mass(residual: Tensor, scale: Tensor) -> Tensor:
    """Probability of the unit bin around each residual."""
    inverse = 1 / (scale * math.sqrt(2))
    magnitude = residual.abs()
    return 0.5 * (torch.erfc((magnitude - 0.5) * inverse) - torch.erfc((magnitude + 0.5) * inverse))


class Laplace(Scaled):
    """Laplace distributions integrated over unit bins; `scale` is b, in quantisation steps."""

    __slots__ = ()

    def bits(self, residual: Tensor) -> Tensor:
        """Bits of each residual, float32."""
        with full_precision(residual):
            scale = self.scale.float().clamp(*SCALE_RANGE)
            magnitude = residual.float().abs()
            far = torch.exp(-(magnitude + 0.5) / scale)
            near = torch.exp(-(magnitude - 0.5).abs() / scale)
            mass = torch.where(magnitude < 0.5, 1 - 0.5 * (near + far), 0.5 * (near - far))
            return bits_of(mass)


ScaleFamily = Callable[[Tensor, Tensor, ScaleTables], Distribution]
FAMILIES: dict[str, ScaleFamily] = {"gaussian": Gaussian, "laplace": Laplace}


def bits_of(probability: Tensor) -> Tensor:
    """`max(0, -log2(p + 1e-5))` of each probability."""
    return -torch.log2(probability + LIKELIHOOD_FLOOR).clamp(max=0)


def bounded_bits_of(probability: Tensor) -> Tensor:
    """`-log2(max(p, 1e-9))` of each probability."""
    return -torch.log2(at_least(probability, SMALLEST_LIKELIHOOD))


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
        return _channel_index(self.shape, self.prior.tables)


def _channel_index(shape: tuple[int, ...], tables: Tables) -> Tensor:
    channel = torch.arange(shape[1], dtype=torch.int32, device=tables.counts.device)
    return channel.view(1, -1, 1, 1).expand(shape)


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

    def __init__(self, channels: int, max_bound: int = LARGEST_HYPER_SYMBOL):
        super().__init__()
        self.layers = self._make_layers(channels)
        self.channels = channels
        self.tables = Tables(channels, max_bound)
        self.register_buffer("table_source", torch.zeros(8, dtype=torch.uint8))

    @staticmethod
    def _make_layers(channels: int) -> nn.ModuleList:
        return nn.ModuleList(_DensityLayer(channels, last=i == 3) for i in range(4))

    @property
    def median(self) -> Tensor | float:
        """Subtracted from a value before rounding and added after."""
        return 0.0

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """The distribution of a hyper latent of `shape (B, C, H, W)`."""
        return Factorised(self, tuple(shape))

    def logits(self, value: Tensor) -> Tensor:
        """Distribution function at `value (B, C, H, W)`, before the sigmoid."""
        for layer in self.layers:
            value = layer(value)
        return value

    def cdf(self, value: Tensor) -> Tensor:
        """Distribution function at `value (B, C, H, W)`."""
        return torch.sigmoid(self.logits(value))

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
        value = edges.view(1, 1, 1, -1).expand(1, self.channels, 1, -1)
        exact = copy.deepcopy(self).double()
        self.tables.fill(exact.cdf(value + exact.median)[0, :, 0])
        self.table_source.copy_(self.parameter_digest())

    def train(self, mode: bool = True) -> "FactorisedPrior":
        """Set the mode; entering evaluation renews stale tables."""
        super().train(mode)
        if not mode:
            self.rebuild_tables()
        return self


class MedianFactorised(NamedTuple):
    """One learned density per channel around its median."""

    prior: "MedianFactorisedPrior"
    shape: tuple[int, ...]

    @property
    def mean(self) -> Tensor:
        """Median of each channel, `(1, C, 1, 1)`."""
        return self.prior.median

    @property
    def tables(self) -> Tables:
        """The prior's integer tables."""
        return self.prior.tables

    def bits(self, residual: Tensor) -> Tensor:
        """Bits of each value, float32."""
        with full_precision(residual):
            value = residual.float() + self.mean
            lower, upper = self.prior.logits(value - 0.5), self.prior.logits(value + 0.5)
            # by symmetry on the negative side, where the difference of two small numbers keeps its digits
            side = torch.where(lower + upper > 0, -1.0, 1.0)
            mass = (torch.sigmoid(side * upper) - torch.sigmoid(side * lower)).abs()
            return bounded_bits_of(mass) + self.prior.quantile_pull() / residual.numel()

    def table_index(self) -> Tensor:
        """The channel of each symbol, int32."""
        return _channel_index(self.shape, self.prior.tables)


class _MixingLayer(nn.Module):
    """As `_DensityLayer`, mixing several values of each channel: `v = softplus(matrix) u + bias`."""

    factor: nn.Parameter | None

    def __init__(self, channels: int, n_in: int, n_out: int, *, last: bool):
        super().__init__()
        # the five layers together start as a density of scale 10
        start = math.log(math.expm1(0.1**0.2 / n_out))
        self.matrix = nn.Parameter(torch.full((channels, n_out, n_in), start))
        self.bias = nn.Parameter(torch.empty(channels, n_out, 1).uniform_(-0.5, 0.5))
        self.factor = None if last else nn.Parameter(torch.zeros(channels, n_out, 1))

    def forward(self, u: Tensor, *, frozen: bool = False) -> Tensor:
        """Maps `(B, C, n_in, N)` to `(B, C, n_out, N)`; a frozen layer passes gradients to `u` alone."""
        matrix, bias = (p.detach() if frozen else p for p in (self.matrix, self.bias))
        v = F.softplus(matrix) @ u + bias
        if self.factor is None:
            return v
        return v + torch.tanh(self.factor.detach() if frozen else self.factor) * torch.tanh(v)


class MedianFactorisedPrior(FactorisedPrior):
    """Learned density of a hyper latent with three inner values a channel (Balle et al., arXiv 1802.01436, App. 6.1).

    Symbols count from the median of each channel, the middle one of three learned quantiles. The quantiles follow the
    density by a term in its bits whose value is 0 and whose gradient reaches them alone.

    Args:
        channels: see `FactorisedPrior`.
        max_bound: see `FactorisedPrior`.
    """

    def __init__(self, channels: int, max_bound: int = LARGEST_HYPER_SYMBOL):
        super().__init__(channels, max_bound)
        self.quantiles = nn.Parameter(torch.tensor([-10.0, 0.0, 10.0]).repeat(channels, 1, 1))

    @staticmethod
    def _make_layers(channels: int) -> nn.ModuleList:
        widths = (1, 3, 3, 3, 3, 1)
        return nn.ModuleList(_MixingLayer(channels, widths[i], widths[i + 1], last=i == 4) for i in range(5))

    @property
    def median(self) -> Tensor:
        """Of each channel, `(1, C, 1, 1)`, without gradient."""
        return self.quantiles.detach()[:, 0, 1].view(1, -1, 1, 1)

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """The distribution of a hyper latent of `shape (B, C, H, W)`."""
        return MedianFactorised(self, tuple(shape))

    def logits(self, value: Tensor) -> Tensor:
        """Distribution function at `value (B, C, H, W)`, before the sigmoid."""
        return super().logits(value.flatten(2).unsqueeze(2)).reshape(value.shape)

    def quantile_pull(self) -> Tensor:
        """0, with the gradient of the quantiles' distance from where the density puts them."""
        target = math.log(2 / SMALLEST_LIKELIHOOD - 1)
        reached = self.quantiles[None]
        for layer in self.layers:
            reached = layer(reached, frozen=True)
        distance = (reached - reached.new_tensor([-target, 0.0, target])).abs().sum()
        return distance - distance.detach()


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
