"""Variable rate: channel gains that depend on the rate coordinate and, where asked, on the temporal layer."""

from typing import Literal

import torch
from torch import Tensor, nn

RateRule = Literal["anchors", "geometric"]
"""How rates lie between the anchors, see `RateGain`."""


class RateGain(nn.Module):
    """Channel gains `basic[layer] * scale(rate)`, one model for many rates (DCVC-DC, arXiv 2302.14402).

    Args:
        channels: C.
        scales: the initial scale at each anchor, lowest rate first.
        layers: number of temporal layers with their own `basic` vector.
        rule: "anchors" interpolates log-linearly through every anchor; "geometric" spaces the rates geometrically
            between the first anchor and the last, as the official fine control does, and ignores those between.
    """

    def __init__(
        self,
        channels: int,
        scales: tuple[float, ...],
        layers: int = 1,
        rule: RateRule = "anchors",
    ):
        super().__init__()
        self.basic = nn.Parameter(torch.ones(layers, channels, 1, 1))
        self.scale = nn.Parameter(torch.tensor(scales).view(-1, 1, 1, 1))
        self.rule = rule

    def forward(self, rate: Tensor, layer: int = 0) -> Tensor:
        """Gains `(B, C, 1, 1)`.

        Args:
            rate: `(B,)`, 0 at the first anchor to `anchors - 1` at the last; clamped to that range.
            layer: row of `basic`, clamped to the rows that exist.
        """
        anchors = self.scale.shape[0]
        log_scale = self.scale.clamp(min=1e-6).log()
        if self.rule == "geometric":
            log_scale = torch.lerp(
                log_scale[:1], log_scale[-1:], torch.linspace(0, 1, anchors).to(rate).view(-1, 1, 1, 1)
            )
        rate = rate.clamp(0, anchors - 1)
        below = rate.floor().clamp(max=max(anchors - 2, 0)).long()
        above = (below + 1).clamp(max=anchors - 1)
        weight = (rate - below).view(-1, 1, 1, 1)
        scale = torch.lerp(log_scale[below], log_scale[above], weight).exp()
        return self.basic[min(layer, self.basic.shape[0] - 1)] * scale


def feature_gains(lambdas: tuple[float, ...]) -> tuple[float, ...]:
    """CHOICE: initial gains inside a network, in proportion to sqrt(lambda), geometric mean 1."""
    middle = (lambdas[0] * lambdas[-1]) ** 0.5
    return tuple((value / middle) ** 0.5 for value in lambdas)


def coefficient_gains(lambdas: tuple[float, ...], weight: float = 1.0) -> tuple[float, ...]:
    """CHOICE: initial gains of orthonormal coefficients; a step of sqrt(2 / lambda) balances rate and distortion.

    Args:
        lambdas: rate-distortion weight of each anchor.
        weight: distortion that a unit error of a coefficient makes.
    """
    return tuple((weight * value / 2) ** 0.5 for value in lambdas)
