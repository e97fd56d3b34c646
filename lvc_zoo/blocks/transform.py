"""A learned linear block transform, the shortcut that lets a small codec be a sensible one from its first step."""

import torch
from einops import rearrange
from torch import Tensor, nn

from .conv import convolve
from .gain import RateGain
from .precision import full_precision


class BlockTransform(nn.Module):
    """Linear analysis and synthesis of non-overlapping blocks, started as an orthonormal DCT and learned from there.

    Analysis maps `(B, planes, H, W)` to `(B, channels, H / size, W / size)`, synthesis back. Both are 1x1 convolutions
    of a rearrangement, in float32: PyTorch's transposed convolution gives other last bits for other thread counts.

    Args:
        channels: number of coefficients kept of `planes * size ** 2`.
        size: block side in pixels.
        planes: 3 for RGB, whose luma comes first; any other number is transformed plane by plane, as flows are.
    """

    def __init__(self, channels: int, size: int = 16, planes: int = 3):
        super().__init__()
        if not 0 < channels <= planes * size**2:
            raise ValueError(
                f"{channels} coefficients of a {size}x{size}x{planes} block, expected 1 to {planes * size**2}"
            )
        self.size = size
        self.planes = planes
        basis = block_cosine_basis(channels, size, planes)
        self.analysis_weight = nn.Parameter(basis.clone())
        self.synthesis_weight = nn.Parameter(basis.clone())

    def analysis(self, x: Tensor) -> Tensor:
        """Coefficients `(B, channels, H / size, W / size)` of `x (B, planes, H, W)`."""
        blocks = rearrange(x, "b c (y i) (x j) -> b (c i j) y x", i=self.size, j=self.size)
        with full_precision(x):
            return convolve(blocks.float(), self.analysis_weight[:, :, None, None])

    def synthesis(self, y: Tensor) -> Tensor:
        """Picture `(B, planes, H, W)` of coefficients `y (B, channels, H / size, W / size)`."""
        with full_precision(y):
            blocks = convolve(y.float(), self.synthesis_weight.t()[:, :, None, None])
        picture = rearrange(blocks, "b (c i j) y x -> b c (y i) (x j)", c=self.planes, i=self.size, j=self.size)
        return picture.contiguous(memory_format=torch.channels_last)


class LatentScale(nn.Module):
    """Magnitudes of a block transform's coefficients: what the parameter networks' predictions are relative to.

    Args:
        channels: of the latent.
        gains: the initial gain at each anchor, see `gain.coefficient_gains`.
        layers: number of temporal layers with gains of their own.
    """

    def __init__(self, channels: int, gains: tuple[float, ...], layers: int = 1):
        super().__init__()
        # CHOICE: 1 / f spectrum until `start_from` sets measured values
        spectrum = 1.0 / torch.arange(1, channels + 1)
        self.log_deviation = nn.Parameter(spectrum.log().view(1, -1, 1, 1))
        self.gain = RateGain(channels, gains, layers)

    def forward(self, rate: Tensor, layer: int = 0) -> tuple[Tensor, Tensor]:
        """Gain and unit (expected magnitude after the gain), both `(B, C, 1, 1)`, for `rate (B,)`."""
        gain = self.gain(rate, layer)
        return gain, gain * self.log_deviation.exp()

    @torch.no_grad()
    def start_from(self, deviation: Tensor) -> None:
        """Set the coefficients' standard deviations `(C,)`, measured on training data.

        CHOICE: at least a tenth of a quantisation step, since what networks add to a still smaller one would cost most.
        """
        floor = 0.1 / float(self.gain.scale.log().mean().exp())
        self.log_deviation.copy_(deviation.clamp(min=floor).log().view(1, -1, 1, 1))


def soft_limit(y: Tensor, limit: float = 8.0) -> Tensor:
    """`y / (1 + |y| / limit)`: nearly linear for small values, never beyond `limit`; for networks that read latents."""
    return y / (1 + y.abs() / limit)


def block_cosine_basis(channels: int, size: int, planes: int = 3) -> Tensor:
    """The first `channels` rows, lowest frequencies first, of an orthonormal 2D DCT, for RGB times a colour rotation.

    Returns:
        `(channels, planes * size ** 2)`, orthonormal rows; columns are (plane, row, column).
    """
    position = torch.arange(size, dtype=torch.float64)
    cosine = torch.cos(torch.pi * (position[None, :] + 0.5) * position[:, None] / size) * (2 / size) ** 0.5
    cosine[0] /= 2**0.5
    frequency = (position[:, None] + position[None, :]).flatten()
    rotation, orders = torch.eye(planes, dtype=torch.float64), [frequency] * planes
    if planes == 3:
        luma, blue, red = [1.0, 1.0, 1.0], [-0.5, -0.5, 1.0], [1.0, -1.0, 0.0]
        rotation = torch.tensor([luma, blue, red], dtype=torch.float64)
        rotation = rotation / rotation.norm(dim=1, keepdim=True)
        # CHOICE: zig-zag order with chroma counted as 2.5 times the frequency, because natural pictures have less of it
        orders = [frequency, 2.5 * (frequency + 1), 2.5 * (frequency + 1)]
    rows = torch.einsum("pc,ui,vj->puvcij", rotation, cosine, cosine).reshape(planes * size**2, planes * size**2)
    return rows[torch.cat(orders).argsort(stable=True)[:channels]].float()
