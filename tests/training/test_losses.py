"""Distortions against their definitions and other implementations."""

import pytest
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from lvc_zoo.training.losses import (
    anchor_balance,
    distortion_of,
    distortion_weights,
    squared_error,
    structural_error,
    warping_error,
)


def test_squared_error_is_three_times_the_mean():
    torch.manual_seed(0)
    a, b = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    expected = torch.stack([3 * torch.nn.functional.mse_loss(a[i], b[i]) for i in range(2)])
    torch.testing.assert_close(squared_error(a, b), expected)


def test_structural_error_agrees_with_torchmetrics():
    torch.manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(2, 3, 22, 22), scale_factor=8, mode="bilinear")
    x_hat = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    expected = 1 - multiscale_structural_similarity_index_measure(
        x_hat, x, sigma=1.5, kernel_size=11, data_range=1.0, reduction="none"
    )
    # torchmetrics pads where pytorch-msssim leaves the border out
    torch.testing.assert_close(distortion_of("ms-ssim", x_hat, x), expected, atol=5e-3, rtol=0)


def test_structural_error_does_not_see_autocast():
    x = torch.nn.functional.interpolate(torch.rand(2, 3, 12, 12), size=(176, 176), mode="bicubic").clamp(0, 1)
    x_hat = (x + 0.01 * torch.randn_like(x)).requires_grad_()
    errors = [structural_error(x_hat, x)]
    with torch.autocast("cpu", torch.bfloat16):
        errors.append(structural_error(x_hat, x))
    assert torch.equal(*errors)
    gradients = [torch.autograd.grad(error.sum(), x_hat)[0] for error in errors]
    assert torch.equal(*gradients)


def test_structural_error_of_small_crop_raises():
    with pytest.raises(ValueError, match=r"crop of 160x160 has no MS-SSIM, expected sides above 160; raise crop"):
        distortion_of("ms-ssim", torch.zeros(1, 3, 160, 160), torch.zeros(1, 3, 160, 160))


def test_distortion_weights_of_four_anchors_are_the_papers():
    lambdas = (85.0, 170.0, 380.0, 840.0)
    assert distortion_weights("mse", lambdas) == lambdas
    assert distortion_weights("ms-ssim", lambdas) == (7.68, 15.36, 30.72, 61.44)


def test_anchor_balance_gives_ends_reciprocal_factors():
    balance = anchor_balance(torch.tensor([85.0, 170.0, 380.0, 840.0]))
    torch.testing.assert_close(balance[0] * balance[3], torch.tensor(1.0))
    torch.testing.assert_close(balance[0] / balance[1], torch.tensor(2.0).sqrt())
    assert float(anchor_balance(torch.tensor([341.0]))) == pytest.approx(1)


def test_warping_error_of_true_flow_is_zero():
    x = torch.rand(1, 3, 8, 12)
    reference = torch.roll(x, 2, dims=-1)
    flow = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 8, 12)
    still = torch.zeros(1, 2, 8, 12)
    inside = x[..., :10], reference[..., :12]
    assert float(squared_error(inside[1][..., 2:], inside[0])) == 0
    mean = warping_error([reference, x], [flow, still], x)
    border = squared_error(reference[..., [11, 11]], x[..., 10:]) * 2 / 12
    torch.testing.assert_close(mean, border / 2, atol=1e-6, rtol=1e-4)
