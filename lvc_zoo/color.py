"""RGB and YCbCr by named matrix and range, and chroma resampling: the one path of readers, writers and metrics."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import nearest_names

MATRICES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
"""Luma weights of red and blue, (Kr, Kb): ITU-R BT.601 and BT.709."""
SUBSAMPLING = {"420": (True, True), "422": (False, True), "444": (False, False)}
"""Whether chroma has half the (lines, columns)."""
HD_HEIGHT = 720


@dataclass(frozen=True, slots=True, kw_only=True)
class ColorSpec:
    """How the code values of a video stand for RGB.

    Attributes:
        matrix: "bt601" or "bt709".
        full_range: luma codes reach from 0 to the largest; False = limited, 16..235 at 8 bit.
        bit_depth: 8 or 10.
        chroma: "420", "422" or "444".
        assumed: the source carried no matrix and this one is a guess.

    Example:
        >>> ColorSpec(matrix="bt709").max_code
        255
    """

    matrix: str = field(kw_only=False)
    full_range: bool = False
    bit_depth: int = 8
    chroma: str = "420"
    assumed: bool = False

    def __post_init__(self) -> None:
        """Check every field."""
        if self.matrix not in MATRICES:
            raise ValueError(f"matrix {self.matrix!r} is unknown" + nearest_names(self.matrix, MATRICES))
        if self.chroma not in SUBSAMPLING:
            raise ValueError(f"chroma {self.chroma!r} is unknown" + nearest_names(self.chroma, SUBSAMPLING))
        if self.bit_depth not in (8, 10):
            raise ValueError(f"bit depth is {self.bit_depth}, expected 8 or 10")

    @classmethod
    def for_height(cls, height: int) -> "ColorSpec":
        """The guess for an untagged source: limited range, BT.601 below 720 lines, BT.709 from there.

        Example:
            >>> ColorSpec.for_height(576).matrix, ColorSpec.for_height(720).matrix
            ('bt601', 'bt709')
        """
        return cls("bt601" if height < HD_HEIGHT else "bt709", assumed=True)

    @classmethod
    def for_rgb(cls, height: int) -> "ColorSpec":
        """How to store a source that is RGB itself: as `for_height`, with full chroma and nothing guessed.

        CHOICE: limited range, because many programs ignore the tag of the other.
        """
        return cls(cls.for_height(height).matrix, chroma="444")

    @property
    def max_code(self) -> int:
        """Largest code value, 255 or 1023."""
        return (1 << self.bit_depth) - 1

    def chroma_size(self, height: int, width: int) -> tuple[int, int]:
        """Lines and columns of the chroma planes of a `height` x `width` picture.

        Example:
            >>> ColorSpec("bt601", chroma="420").chroma_size(17, 33)
            (9, 17)
        """
        lines, columns = SUBSAMPLING[self.chroma]
        return (height + 1) // 2 if lines else height, (width + 1) // 2 if columns else width


def _scales(spec: ColorSpec) -> tuple[float, float, float, float]:
    """Offset and span of luma and of chroma, as fractions of the largest code."""
    unit = 1 << (spec.bit_depth - 8)
    black, luma, chroma = (0, spec.max_code, spec.max_code) if spec.full_range else (16 * unit, 219 * unit, 224 * unit)
    return black / spec.max_code, luma / spec.max_code, 128 * unit / spec.max_code, chroma / spec.max_code


def rgb_to_yuv(rgb: Tensor, spec: ColorSpec) -> Tensor:
    """Code values of an RGB picture, chroma at full size, neither rounded nor clamped.

    Args:
        rgb: `(..., 3, H, W)` in [0, 1].
        spec: matrix, range and bit depth; its chroma format is not read.

    Returns:
        Y, Cb, Cr `(..., 3, H, W)` as code / largest code.

    Example:
        >>> white = torch.ones(3, 1, 1)
        >>> (rgb_to_yuv(white, ColorSpec("bt709")) * 255).round().flatten().tolist()
        [235.0, 128.0, 128.0]
    """
    kr, kb = MATRICES[spec.matrix]
    black, luma, neutral, chroma = _scales(spec)
    red, green, blue = rgb.unbind(-3)
    y = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - y) / (2 - 2 * kb), (red - y) / (2 - 2 * kr)
    return torch.stack((black + luma * y, neutral + chroma * cb, neutral + chroma * cr), dim=-3)


def yuv_to_rgb(yuv: Tensor, spec: ColorSpec) -> Tensor:
    """The inverse of `rgb_to_yuv`; codes outside the RGB cube give values outside [0, 1].

    Args:
        yuv: Y, Cb, Cr `(..., 3, H, W)` as code / largest code.
        spec: matrix, range and bit depth; its chroma format is not read.

    Returns:
        RGB `(..., 3, H, W)`, not clamped.
    """
    kr, kb = MATRICES[spec.matrix]
    black, luma, neutral, chroma = _scales(spec)
    y, cb, cr = yuv.unbind(-3)
    y, cb, cr = (y - black) / luma, (cb - neutral) / chroma, (cr - neutral) / chroma
    red, blue = y + (2 - 2 * kr) * cr, y + (2 - 2 * kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return torch.stack((red, green, blue), dim=-3)


def upsample_chroma(chroma: Tensor, spec: ColorSpec, size: tuple[int, int]) -> Tensor:
    """Chroma at the picture's size, by bicubic (Catmull-Rom) interpolation; edges are repeated.

    CHOICE: chroma is sited as MPEG-2 and H.264 have it by default, on the even columns and midway between two lines.

    Args:
        chroma: `(..., h, w)`, the size that `spec.chroma_size(*size)` gives.
        spec: its chroma format is read.
        size: lines and columns of the picture, odd ones included.

    Returns:
        `(..., H, W)`.
    """
    if tuple(chroma.shape[-2:]) != spec.chroma_size(*size):
        raise ValueError(
            f"chroma planes have (H, W) {tuple(chroma.shape[-2:])}, expected {spec.chroma_size(*size)} "
            f"for a picture of {size} in {spec.chroma}"
        )
    lines, columns = SUBSAMPLING[spec.chroma]
    if lines:
        chroma = _resample(chroma, -2, torch.arange(size[0], device=chroma.device) / 2 - 0.25, 1)
    if columns:
        chroma = _resample(chroma, -1, torch.arange(size[1], device=chroma.device) / 2, 1)
    return chroma


def downsample_chroma(chroma: Tensor, spec: ColorSpec) -> Tensor:
    """Chroma in the size and at the sites of `spec.chroma`, by the bicubic kernel at half the bandwidth.

    Args:
        chroma: `(..., H, W)`.
        spec: its chroma format is read.

    Returns:
        `(..., *spec.chroma_size(H, W))`.
    """
    height, width = spec.chroma_size(*chroma.shape[-2:])
    lines, columns = SUBSAMPLING[spec.chroma]
    if lines:
        chroma = _resample(chroma, -2, 2 * torch.arange(height, device=chroma.device) + 0.5, 2)
    if columns:
        chroma = _resample(chroma, -1, 2.0 * torch.arange(width, device=chroma.device), 2)
    return chroma


def _resample(x: Tensor, dim: int, positions: Tensor, stretch: int) -> Tensor:
    """Values of `x` at fractional indices along `dim`, through the Catmull-Rom kernel made `stretch` times as wide."""
    base = positions.floor()
    shape = (-1, 1) if dim == -2 else (-1,)
    out = torch.zeros((), dtype=x.dtype, device=x.device)
    for tap in range(1 - 2 * stretch, 2 * stretch + 1):
        distance = (positions - base - tap).abs() / stretch
        inner = (1.5 * distance - 2.5) * distance.square() + 1
        outer = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
        weight = torch.where(distance < 1, inner, torch.where(distance < 2, outer, 0.0)) / stretch
        index = (base.long() + tap).clamp(0, x.shape[dim] - 1)
        out = out + weight.to(x.dtype).view(shape) * x.index_select(dim, index)
    return out


def planes_to_rgb(y: Tensor, u: Tensor, v: Tensor, spec: ColorSpec) -> Tensor:
    """RGB of one picture's integer planes.

    Args:
        y: `(H, W)` codes, any integer type.
        u: Cb, `spec.chroma_size(H, W)`.
        v: Cr, the same size.
        spec: what the codes mean.

    Returns:
        `(3, H, W)` in [0, 1], not rounded.
    """
    chroma = upsample_chroma(torch.stack((u, v)).float(), spec, (y.shape[-2], y.shape[-1]))
    return yuv_to_rgb(torch.cat((y.float()[None], chroma)) / spec.max_code, spec).clamp(0, 1)


def rgb_to_planes(rgb: Tensor, spec: ColorSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Integer planes of one picture.

    Args:
        rgb: `(3, H, W)`, clamped to [0, 1] first.
        spec: what the codes shall mean.

    Returns:
        Y `(H, W)`, Cb and Cr `spec.chroma_size(H, W)`: uint8, or int16 at 10 bit.
    """
    yuv = rgb_to_yuv(rgb.float().clamp(0, 1), spec) * spec.max_code
    dtype = torch.uint8 if spec.bit_depth == 8 else torch.int16
    y, chroma = (x.round().clamp(0, spec.max_code).to(dtype) for x in (yuv[0], downsample_chroma(yuv[1:], spec)))
    return y, chroma[0], chroma[1]
