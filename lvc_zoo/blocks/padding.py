"""Padding to a multiple and cropping back."""

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Replicate the last row and column until height and width are multiples of `multiple`.

    Args:
        x: `(B, C, H, W)`, any H, W >= 1.
        multiple: a positive integer.

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
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def crop_to_size(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Keep the top-left `size = (height, width)` of `x (..., H, W)`; the inverse of `pad_to_multiple`."""
    height, width = size
    if x.shape[-2] < height or x.shape[-1] < width:
        raise ValueError(f"cannot crop {tuple(x.shape[-2:])} to {size}: expected a size no larger than the tensor's")
    return x[..., :height, :width]
