"""Activations that give the same bits for every number of threads, where PyTorch's own do not."""

import torch
from torch import Tensor, nn


def sigmoid(x: Tensor) -> Tensor:
    """Logistic function of `x`, to an absolute error of 2e-7, in (0, 1) up to rounding.

    `torch.sigmoid` takes another exponential for the last elements of each thread's share, and is off in the last bit
    there; `torch.tanh` does not. The gradient is the same.

    Example:
        >>> sigmoid(torch.tensor([-40.0, 0.0, 40.0])).tolist()
        [0.0, 0.5, 1.0]
    """
    return 0.5 + 0.5 * torch.tanh(0.5 * x)


class Sigmoid(nn.Module):
    """`sigmoid` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the shape of `x`."""
        return sigmoid(x)
