"""A learned linear block transform, the shortcut that lets a small codec be a sensible one from its first step."""

import torch
from einops import rearrange
from torch import Tensor, nn

from .conv import convolve
from .precision import full_precision


class BlockTransform(nn.Module):
    """Linear analysis and synthesis of non-overlapping blocks, started as an orthonormal DCT and learned from there.

    Analysis maps `(B, 3, H, W)` to `(B, channels, H / size, W / size)`, synthesis back. Both are 1x1 convolutions
    of a rearrangement, in float32: PyTorch's transposed convolution gives other last bits for other thread counts.

    Args:
        channels: number of coefficients kept of `3 * size ** 2`.
        size: block side in pixels.
    """

    def __init__(self, channels: int, size: int = 16):
        super().__init__()
        if not 0 < channels <= 3 * size**2:
            raise ValueError(f"{channels} coefficients of a {size}x{size}x3 block, expected 1 to {3 * size**2}")
        self.size = size
        basis = block_cosine_basis(channels, size)
        self.analysis_weight = nn.Parameter(basis.clone())
        self.synthesis_weight = nn.Parameter(basis.clone())

    def analysis(self, x: Tensor) -> Tensor:
        """Coefficients `(B, channels, H / size, W / size)` of `x (B, 3, H, W)`."""
        blocks = rearrange(x, "b c (y i) (x j) -> b (c i j) y x", i=self.size, j=self.size)
        with full_precision(x):
            return convolve(blocks.float(), self.analysis_weight[:, :, None, None])

    def synthesis(self, y: Tensor) -> Tensor:
        """Picture `(B, 3, H, W)` of coefficients `y (B, channels, H / size, W / size)`."""
        with full_precision(y):
            blocks = convolve(y.float(), self.synthesis_weight.t()[:, :, None, None])
        picture = rearrange(blocks, "b (c i j) y x -> b c (y i) (x j)", c=3, i=self.size, j=self.size)
        return picture.contiguous(memory_format=torch.channels_last)


def soft_limit(y: Tensor, limit: float = 8.0) -> Tensor:
    """`y / (1 + |y| / limit)`: nearly linear for small values, never beyond `limit`; for networks that read latents."""
    return y / (1 + y.abs() / limit)


def block_cosine_basis(channels: int, size: int) -> Tensor:
    """The first `channels` rows, lowest frequencies first, of an orthonormal 2D DCT times a luma-chroma rotation.

    Returns:
        `(channels, 3 * size ** 2)`, orthonormal rows; columns are (colour, row, column).
    """
    position = torch.arange(size, dtype=torch.float64)
    cosine = torch.cos(torch.pi * (position[None, :] + 0.5) * position[:, None] / size) * (2 / size) ** 0.5
    cosine[0] /= 2**0.5
    luma, blue, red = [1.0, 1.0, 1.0], [-0.5, -0.5, 1.0], [1.0, -1.0, 0.0]
    rotation = torch.tensor([luma, blue, red], dtype=torch.float64)
    rotation = rotation / rotation.norm(dim=1, keepdim=True)
    rows = torch.einsum("pc,ui,vj->puvcij", rotation, cosine, cosine).reshape(3 * size**2, 3 * size**2)
    # CHOICE: zig-zag order with chroma counted as 2.5 times the frequency, because natural pictures have less of it
    frequency = (position[:, None] + position[None, :]).flatten()
    order = torch.cat([frequency, 2.5 * (frequency + 1), 2.5 * (frequency + 1)]).argsort(stable=True)
    return rows[order[:channels]].float()
