"""Distortion: PSNR in RGB, PSNR of the Y, U and V planes with its named composites, and MS-SSIM.

Pure functions give one value per frame; the metrics below them average those over all frames they saw. Three different
numbers go by the name "PSNR-YUV" in the literature, so each has a name of its own here and none is called plain PSNR.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pytorch_msssim import ms_ssim
from torch import Tensor
from torchmetrics import Metric

from ..blocks.precision import full_precision
from ..color import ColorSpec, rgb_to_yuv

MS_SSIM_SMALLEST_SIDE = 161
"""MS-SSIM halves a picture four times and then lays an 11-tap window on it; a shorter side has no MS-SSIM."""


class YUVPSNR(NamedTuple):
    """PSNR in dB of the planes and of the three composites in use; each `(...)`, one value per frame."""

    psnr_y: Tensor
    psnr_u: Tensor
    psnr_v: Tensor
    psnr_yuv611: Tensor
    """(6 Y + U + V) / 8 of the planes' dB: the DCVC family and most papers since."""
    psnr_yuv411: Tensor
    """(4 Y + U + V) / 6 of the planes' dB: CompressAI."""
    psnr_yuv_mse411: Tensor
    """dB of (4 Y + U + V) / 6 of the planes' MSE, the mean over the samples of a 4:2:0 picture: Cool-chic."""


def mean_squared_error(x_hat: Tensor, x: Tensor, *, num_dims: int = 3) -> Tensor:
    """Mean squared error over the last `num_dims` dimensions.

    Args:
        x_hat: decoded pictures or planes, `(..., C, H, W)`.
        x: their source, of the same shape.
        num_dims: how many trailing dimensions are averaged; 2 for planes `(..., H, W)`.

    Returns:
        `(...)`, float64.

    Raises:
        ValueError: if the shapes differ or have fewer than `num_dims` dimensions.
    """
    if x_hat.shape != x.shape or x.dim() < num_dims:
        raise ValueError(
            f"x_hat is {tuple(x_hat.shape)} and x is {tuple(x.shape)}; expected one shape for both, of at least "
            f"{num_dims} dimensions; crop the decoded picture to the source's size"
        )
    error = x_hat.to(torch.promote_types(x_hat.dtype, torch.float32)) - x
    return error.square().mean(dim=tuple(range(-num_dims, 0)), dtype=torch.float64)


def decibels(mse: Tensor, data_range: float = 1.0) -> Tensor:
    """PSNR in dB of a mean squared error; infinite where the error is zero.

    Example:
        >>> decibels(torch.tensor(0.01))
        tensor(20.)
    """
    return 10 * torch.log10(data_range**2 / mse)


def psnr_db(x_hat: Tensor, x: Tensor, data_range: float = 1.0) -> Tensor:
    """PSNR of each frame over its three colour channels together, without re-quantising to 8 bits.

    Args:
        x_hat: decoded frames, `(..., C, H, W)`, in `[0, data_range]`.
        x: source frames, same shape.
        data_range: distance between black and white.

    Returns:
        dB, `(...)`, float64; infinite for equal frames.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> psnr_db(torch.full((2, 3, 4, 4), 0.6), torch.full((2, 3, 4, 4), 0.5)).round(decimals=3)
        tensor([20., 20.], dtype=torch.float64)
    """
    return decibels(mean_squared_error(x_hat, x), data_range)


def yuv_psnr_db(planes_hat: Sequence[Tensor], planes: Sequence[Tensor], data_range: float = 1.0) -> YUVPSNR:
    """PSNR of each frame's Y, U and V planes and its composites, at whatever chroma resolution the planes have.

    Args:
        planes_hat: decoded Y, U and V, each `(..., H, W)`, in `[0, data_range]`; U and V may be smaller than Y.
        planes: the source's planes, of the same shapes.
        data_range: distance between a plane's smallest and largest code (1.0 for full-scale floats, 255 for 8 bits).

    Returns:
        dB by plane and composite, each `(...)`, float64.

    Raises:
        ValueError: if there are not three planes each, or shapes differ.

    Example:
        >>> plane = torch.zeros(4, 4)
        >>> psnr = yuv_psnr_db((plane + 0.1, plane + 0.01, plane + 0.01), (plane, plane, plane))
        >>> print(f"{psnr.psnr_yuv611:.2f} {psnr.psnr_yuv411:.2f} {psnr.psnr_yuv_mse411:.2f}")
        25.00 26.67 21.74
    """
    if len(planes_hat) != 3 or len(planes) != 3:
        raise ValueError(
            f"got {len(planes_hat)} decoded and {len(planes)} source planes; expected Y, U and V of both; "
            "split a (..., 3, H, W) tensor with .unbind(-3)"
        )
    pairs = zip(planes_hat, planes, strict=True)
    mse_y, mse_u, mse_v = (mean_squared_error(plane_hat, plane, num_dims=2) for plane_hat, plane in pairs)
    y, u, v = (decibels(mse, data_range) for mse in (mse_y, mse_u, mse_v))
    return YUVPSNR(
        psnr_y=y,
        psnr_u=u,
        psnr_v=v,
        psnr_yuv611=(6 * y + u + v) / 8,
        psnr_yuv411=(4 * y + u + v) / 6,
        psnr_yuv_mse411=decibels((4 * mse_y + mse_u + mse_v) / 6, data_range),
    )


def ms_ssim_per_frame(x_hat: Tensor, x: Tensor, data_range: float = 1.0) -> Tensor:
    """MS-SSIM of each frame, averaged over its colour channels.

    Args:
        x_hat: decoded frames, `(T, C, H, W)`, in `[0, data_range]`.
        x: source frames, same shape.
        data_range: distance between black and white.

    Returns:
        `(T,)` in `[0, 1]`; nan (not available) for all where a side is shorter than `MS_SSIM_SMALLEST_SIDE`.

    Raises:
        ValueError: if the shapes differ or are not `(T, C, H, W)`.
    """
    if x_hat.shape != x.shape or x.dim() != 4:
        raise ValueError(
            f"x_hat is {tuple(x_hat.shape)} and x is {tuple(x.shape)}; expected one (T, C, H, W) shape for both; "
            "flatten a batch of clips with .flatten(0, 1)"
        )
    if min(x.shape[-2:]) < MS_SSIM_SMALLEST_SIDE:
        return x.new_full((x.shape[0],), torch.nan, dtype=torch.float32)
    # The package drops dimensions of length 1, which a grey picture has; a frame at a time also keeps memory small.
    frames = zip(x_hat.float().split(1), x.float().split(1), strict=True)
    with full_precision(x):
        return torch.cat([ms_ssim(a, b, data_range=data_range, size_average=False) for a, b in frames])


class _FrameMean(Metric):
    """Mean over frames of named per-frame values."""

    is_differentiable = False
    full_state_update = False

    def __init__(self, data_range: float, num_values: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_range = data_range
        self.add_state("total", torch.zeros(num_values, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_frames", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.total: Tensor
        self.num_frames: Tensor

    def _add(self, values: Tensor) -> None:
        """Adds `(num_values, num_frames)`."""
        self.total = self.total + values.to(torch.float64).sum(dim=1)
        self.num_frames = self.num_frames + values.shape[1]

    def _mean(self) -> Tensor:
        return self.total / self.num_frames


class PSNR(_FrameMean):
    """Mean over frames of each frame's PSNR in dB, in the colour space of its input (RGB in this package).

    Args:
        data_range: distance between black and white.
        **kwargs: settings of `torchmetrics.Metric`.

    Example:
        >>> metric = PSNR()
        >>> metric.update(torch.full((1, 3, 8, 8), 0.6), torch.full((1, 3, 8, 8), 0.5))
        >>> metric.update(torch.full((1, 3, 8, 8), 0.51), torch.full((1, 3, 8, 8), 0.5))
        >>> round(metric.compute().item(), 3)
        30.0
    """

    higher_is_better = True

    def __init__(self, data_range: float = 1.0, **kwargs: Any) -> None:
        super().__init__(data_range, num_values=1, **kwargs)

    def update(self, x_hat: Tensor, x: Tensor) -> None:
        """Adds frames `(..., C, H, W)` in `[0, data_range]`."""
        self._add(psnr_db(x_hat, x, self.data_range).reshape(1, -1))

    def compute(self) -> Tensor:
        """Mean PSNR in dB, `()`, float64."""
        return self._mean()[0]


class PSNRYUV(_FrameMean):
    """Mean over frames of each frame's plane and composite PSNRs, from RGB through a named matrix.

    The planes are 4:4:4 codes as fractions of the largest one, which is the peak, in limited range too. For the PSNR in
    a 4:2:0 source's own planes, average `yuv_psnr_db` over them.

    Args:
        spec: matrix, range and bit depth that turn RGB into YCbCr.
        **kwargs: settings of `torchmetrics.Metric`.
    """

    higher_is_better = True

    def __init__(self, spec: ColorSpec, **kwargs: Any) -> None:
        super().__init__(data_range=1.0, num_values=len(YUVPSNR._fields), **kwargs)
        self.spec = spec

    def update(self, x_hat: Tensor, x: Tensor) -> None:
        """Adds RGB frames `(..., 3, H, W)` in `[0, 1]`."""
        planes_hat, planes = (rgb_to_yuv(rgb, self.spec).unbind(-3) for rgb in (x_hat, x))
        self._add(torch.stack(yuv_psnr_db(planes_hat, planes)).flatten(1))

    def compute(self) -> dict[str, Tensor]:
        """Mean dB by name of `YUVPSNR`, each `()`, float64."""
        return dict(zip(YUVPSNR._fields, self._mean(), strict=True))


class MSSSIM(_FrameMean):
    """Mean over frames of each frame's MS-SSIM; nan (not available) once a frame with a short side was seen.

    Args:
        data_range: distance between black and white.
        **kwargs: settings of `torchmetrics.Metric`.

    Example:
        >>> metric = MSSSIM()
        >>> metric.update(torch.zeros(1, 3, 144, 176), torch.zeros(1, 3, 144, 176))
        >>> metric.compute()
        tensor(nan, dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(self, data_range: float = 1.0, **kwargs: Any) -> None:
        super().__init__(data_range, num_values=1, **kwargs)

    def update(self, x_hat: Tensor, x: Tensor) -> None:
        """Adds frames `(T, C, H, W)` in `[0, data_range]`."""
        self._add(ms_ssim_per_frame(x_hat, x, self.data_range).reshape(1, -1))

    def compute(self) -> Tensor:
        """Mean MS-SSIM, `()`, float64."""
        return self._mean()[0]
