"""Generalised divisive normalisation: "Density Modeling of Images", Balle et al., arXiv 1511.06281."""

import torch
from torch import Tensor, nn

from .bound import at_least
from .conv import convolve
from .precision import full_precision

PEDESTAL = 2.0**-36
"""Added under the square roots that are stored, so that their gradient stays finite at 0."""
BETA_BOUND = (1e-6 + PEDESTAL) ** 0.5
GAMMA_BOUND = 2.0**-18


class GDN(nn.Module):
    """Divides each channel by the root of a weighted sum of all channels' squares at its position, in float32.

    `y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2)`; the inverse form multiplies. beta and gamma are stored as square
    roots, which keeps them from turning negative: the effective value is `max(stored, bound)^2 - PEDESTAL`.

    Args:
        channels: C of the input `(B, C, H, W)`, which is the output's shape too.
        inverse: multiply instead.

    Example:
        >>> GDN(2)(torch.zeros(1, 2, 3, 4)).shape
        torch.Size([1, 2, 3, 4])
    """

    def __init__(self, channels: int, *, inverse: bool = False):
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter((torch.ones(channels) + PEDESTAL).sqrt())
        self.gamma = nn.Parameter((0.1 * torch.eye(channels) + PEDESTAL).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, C, H, W)`."""
        with full_precision(x):
            x = x.float()
            beta = at_least(self.beta, BETA_BOUND).square() - PEDESTAL
            gamma = at_least(self.gamma, GAMMA_BOUND).square() - PEDESTAL
            norm = convolve(x.square(), gamma[:, :, None, None], beta).sqrt()
            return x * norm if self.inverse else x / norm
