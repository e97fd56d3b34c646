"""Distortions, their rate-distortion weights, and the error of warped references; one value a sample."""

from collections.abc import Sequence
from typing import Literal

import torch
from pytorch_msssim import ms_ssim
from torch import Tensor

from ..blocks.motion import warp
from ..blocks.precision import full_precision
from ..metrics.distortion import MS_SSIM_SMALLEST_SIDE

DistortionName = Literal["mse", "ms-ssim"]

MS_SSIM_LAMBDAS = (7.68, 15.36, 30.72, 61.44)
"""Weights of 1 - MS-SSIM at the four anchors (BiECVC, Sec. 4.1)."""
MS_SSIM_SHARE = 3 / 32
"""CHOICE for codecs with another number of anchors: DCVC-TCM's 8 to 64 beside 256 to 2048 of the mean over colours."""


def squared_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """D: squared error summed over colours, averaged over pixels, `(B,)` of `(B, 3, H, W)`."""
    return (x_hat.float() - x).square().sum(dim=1).mean(dim=(1, 2))


def structural_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """D: 1 - MS-SSIM, the mean over colours, `(B,)` of `(B, 3, H, W)` in [0, 1].

    Raises:
        ValueError: where a side is too short for five scales.
    """
    if min(x.shape[-2:]) < MS_SSIM_SMALLEST_SIDE:
        raise ValueError(
            f"a crop of {x.shape[-2]}x{x.shape[-1]} has no MS-SSIM, expected sides above {MS_SSIM_SMALLEST_SIDE - 1}; "
            "raise crop (256 in the papers) or train with distortion: mse"
        )
    with full_precision(x):  # which of two good pictures is better shows only after bfloat16's eight bits
        similarity: Tensor = ms_ssim(x_hat.float(), x, data_range=1.0, size_average=False)
    return 1 - similarity


def distortion_of(name: DistortionName, x_hat: Tensor, x: Tensor) -> Tensor:
    """The distortion of that name, `(B,)`; see `squared_error` and `structural_error`."""
    return squared_error(x_hat, x) if name == "mse" else structural_error(x_hat, x)


def distortion_weights(name: DistortionName, lambdas: tuple[float, ...]) -> tuple[float, ...]:
    """Weight of the distortion at each anchor of a codec whose weights of squared error are `lambdas`.

    Example:
        >>> distortion_weights("ms-ssim", (85.0, 170.0, 380.0, 840.0))
        (7.68, 15.36, 30.72, 61.44)
        >>> distortion_weights("ms-ssim", (1024 / 3,))
        (32.0,)
    """
    if name == "mse":
        return lambdas
    if len(lambdas) == len(MS_SSIM_LAMBDAS):
        return MS_SSIM_LAMBDAS
    return tuple(MS_SSIM_SHARE * value for value in lambdas)


def anchor_balance(weights: Tensor) -> Tensor:
    """Factor of each anchor's loss, `(anchors,)`: 1 / sqrt(lambda), relative to the geometric middle of the ends.

    CHOICE: otherwise the anchor of the highest rate would rule the gradient of what all share.
    """
    return (weights[0] * weights[-1]) ** 0.25 / weights.sqrt()


def warping_error(references: Sequence[Tensor], flows: Sequence[Tensor], x: Tensor) -> Tensor:
    """Squared error of references `(B, 3, H, W)` warped by their flows `(B, 2, H, W)`, the mean over them, `(B,)`."""
    pairs = zip(references, flows, strict=False)
    return torch.stack([squared_error(warp(reference, flow.float()), x) for reference, flow in pairs]).mean(dim=0)
