"""Padding to a multiple and cropping back."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

PadMode = Literal["replicate", "zeros"]
"""What fills the padding: the last row and column, or zeros."""


def pad_to_multiple(x: Tensor, multiple: int, mode: PadMode = "replicate") -> Tensor:
    """Extend height and width, at the bottom and at the right, to multiples of `multiple`.

    Args:
        x: `(B, C, H, W)`, any H, W >= 1.
        multiple: a positive integer.
        mode: what fills the new rows and columns.

    Returns:
        `(B, C, H', W')` with H' and W' the next multiples; `x` itself where nothing is missing.

    Example:
        >>> import torch
        >>> pad_to_multiple(torch.zeros(1, 3, 17, 33), 16).shape
        torch.Size([1, 3, 32, 48])
    """
    if multiple < 1:
        raise ValueError(f"padding multiple is {multiple}, expected a positive integer; 1 means no padding")
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    if not (bottom or right):
        return x
    return F.pad(x, (0, right, 0, bottom), mode="constant" if mode == "zeros" else "replicate")


def crop_to_size(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Keep the top-left `size = (height, width)` of `x (..., H, W)`; the inverse of `pad_to_multiple`."""
    height, width = size
    if x.shape[-2] < height or x.shape[-1] < width:
        raise ValueError(f"cannot crop {tuple(x.shape[-2:])} to {size}: expected a size no larger than the tensor's")
    return x[..., :height, :width]
