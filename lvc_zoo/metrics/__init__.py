"""Distortion, rate and BD-rate. Needs the `eval` extra; `import lvc_zoo` does not load it."""

from torchmetrics import MeanMetric

from .bdrate import RDCurve, RDPoint, bd_rate
from .distortion import (
    MSSSIM,
    PSNR,
    PSNRYUV,
    YUVPSNR,
    ms_ssim_per_frame,
    psnr_db,
    yuv_psnr_db,
)
from .rate import BitsPerPixel
from .rdcurve import RDCurveMetric

__all__ = [
    "psnr_db",
    "yuv_psnr_db",
    "ms_ssim_per_frame",
    "PSNR",
    "PSNRYUV",
    "YUVPSNR",
    "MSSSIM",
    "MeanMetric",
    "BitsPerPixel",
    "RDPoint",
    "RDCurve",
    "bd_rate",
    "RDCurveMetric",
]
