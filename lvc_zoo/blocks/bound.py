"""A lower bound that training can come back from."""

from typing import Any

import torch
from torch import Tensor


class _AtLeast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        (gradient,) = gradients
        # descent moves against the gradient: a negative one raises x
        return gradient * ((x >= ctx.bound) | (gradient < 0)), None


def at_least(x: Tensor, bound: float) -> Tensor:
    """`max(x, bound)`, whose gradient below the bound passes only where descent raises `x`.

    With `clamp` alone a value that has fallen below the bound would never move again.

    Example:
        >>> x = torch.tensor([0.5, 2.0], requires_grad=True)
        >>> at_least(x, 1.0).sum().backward()
        >>> x.grad.tolist()
        [0.0, 1.0]
    """
    bounded: Tensor = _AtLeast.apply(x, bound)
    return bounded
