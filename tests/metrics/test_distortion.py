import math

import pytest
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as torchmetrics_ms_ssim
from torchmetrics.functional.image import peak_signal_noise_ratio

from lvc_zoo.color import ColorSpec
from lvc_zoo.metrics import MSSSIM, PSNR, PSNRYUV, YUVPSNR, ms_ssim_per_frame, psnr_db, yuv_psnr_db


def noisy_frames(num_frames, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(num_frames, 3, height, width, generator=generator)
    strength = torch.linspace(0.02, 0.2, num_frames).view(-1, 1, 1, 1)
    return (x + strength * torch.randn(x.shape, generator=generator)).clamp(0, 1), x


def test_psnr_per_frame_matches_torchmetrics():
    x_hat, x = noisy_frames(3, 24, 40)
    expected = [peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in zip(x_hat, x, strict=True)]
    torch.testing.assert_close(psnr_db(x_hat, x).float(), torch.stack(expected), rtol=0, atol=1e-4)


def test_psnr_of_8_bit_range_matches_unit_range():
    x_hat, x = noisy_frames(2, 16, 16)
    torch.testing.assert_close(psnr_db(255 * x_hat, 255 * x, data_range=255), psnr_db(x_hat, x), rtol=0, atol=1e-4)


def test_psnr_of_integer_frames_does_not_wrap():
    black, white = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    assert psnr_db(black, white, data_range=255).item() == 0.0


def test_psnr_of_equal_frames_is_infinite():
    x = torch.rand(2, 3, 8, 8)
    assert psnr_db(x, x).tolist() == [math.inf, math.inf]


def test_psnr_of_unequal_shapes_names_both():
    with pytest.raises(ValueError, match=r"\(1, 3, 16, 16\) and x is \(1, 3, 9, 16\)"):
        psnr_db(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 9, 16))


def test_psnr_metric_averages_frames_not_batches():
    x_hat, x = noisy_frames(5, 16, 24)
    metric = PSNR()
    metric.update(x_hat[:1], x[:1])
    metric.update(x_hat[None, 1:], x[None, 1:])
    expected = sum(peak_signal_noise_ratio(a, b, data_range=1.0).item() for a, b in zip(x_hat, x, strict=True)) / 5
    assert metric.compute().item() == pytest.approx(expected, abs=1e-4)


def test_psnr_metric_after_reset_forgets():
    metric = PSNR()
    metric.update(torch.full((1, 3, 8, 8), 0.75), torch.zeros(1, 3, 8, 8))
    metric.reset()
    metric.update(torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 3, 8, 8))
    assert metric.compute().item() == pytest.approx(10 * math.log10(4), abs=1e-9)


def test_yuv_psnr_of_subsampled_planes_matches_hand_values():
    source = (torch.zeros(2, 8, 8), torch.zeros(2, 4, 4), torch.zeros(2, 4, 4))
    decoded = tuple(plane + error for plane, error in zip(source, (0.1, 0.01, 0.001), strict=True))
    psnr = yuv_psnr_db(decoded, source)
    expected = {
        "psnr_y": 20.0,
        "psnr_u": 40.0,
        "psnr_v": 60.0,
        "psnr_yuv611": 220 / 8,
        "psnr_yuv411": 180 / 6,
        "psnr_yuv_mse411": -10 * math.log10((4e-2 + 1e-4 + 1e-6) / 6),
    }
    for name, value in expected.items():
        assert getattr(psnr, name).tolist() == pytest.approx([value, value], abs=1e-4), name


def test_mse_composite_equals_psnr_over_all_420_samples():
    generator = torch.Generator().manual_seed(1)
    source = [torch.rand(h, w, generator=generator) for h, w in ((16, 24), (8, 12), (8, 12))]
    decoded = [(plane + 0.05 * torch.randn(plane.shape, generator=generator)) for plane in source]
    samples_hat, samples = (torch.cat([plane.flatten() for plane in planes]) for planes in (decoded, source))
    expected = peak_signal_noise_ratio(samples_hat, samples, data_range=1.0).item()
    assert yuv_psnr_db(decoded, source).psnr_yuv_mse411.item() == pytest.approx(expected, abs=1e-4)


def test_yuv_psnr_of_two_planes_raises():
    plane = torch.zeros(4, 4)
    with pytest.raises(ValueError, match="2 decoded and 2 source planes"):
        yuv_psnr_db((plane, plane), (plane, plane))


def test_yuv_metric_of_grey_error_is_in_luma_only():
    """An error equal in R, G and B changes Y by as much (full range) and the colour differences not at all."""
    x = torch.full((2, 3, 8, 8), 0.5)
    metric = PSNRYUV(ColorSpec("bt709", full_range=True))
    metric.update(x + 0.1, x)
    psnr = metric.compute()
    assert tuple(psnr) == YUVPSNR._fields
    assert psnr["psnr_y"].item() == pytest.approx(20.0, abs=1e-4)
    assert min(psnr["psnr_u"].item(), psnr["psnr_v"].item()) > 100
    assert psnr["psnr_yuv_mse411"].item() == pytest.approx(20 - 10 * math.log10(4 / 6), abs=1e-4)


def test_ms_ssim_matches_torchmetrics():
    """torchmetrics pads the borders and floors odd sides, so the two agree closely, not exactly."""
    x_hat, x = noisy_frames(2, 176, 192)
    expected = [torchmetrics_ms_ssim(a[None], b[None], data_range=1.0).item() for a, b in zip(x_hat, x, strict=True)]
    assert ms_ssim_per_frame(x_hat, x).tolist() == pytest.approx(expected, abs=2e-3)


def test_ms_ssim_does_not_see_autocast():
    torch.manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12), size=(176, 176), mode="bicubic").clamp(0, 1)
    x_hat = x + 0.003 * torch.randn_like(x)
    plain = ms_ssim_per_frame(x_hat, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ms_ssim_per_frame(x_hat, x), plain)
    assert plain < 1


def test_ms_ssim_of_grey_frame_works():
    _, x = noisy_frames(2, 161, 161)
    assert ms_ssim_per_frame(x[:, :1], x[:, :1]).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_ms_ssim_metric_of_short_side_is_not_available():
    metric = MSSSIM()
    metric.update(torch.zeros(2, 3, 160, 320), torch.zeros(2, 3, 160, 320))
    assert math.isnan(metric.compute().item())


def test_ms_ssim_metric_averages_frames():
    x_hat, x = noisy_frames(3, 161, 162)
    metric = MSSSIM()
    metric.update(x_hat[:1], x[:1])
    metric.update(x_hat[1:], x[1:])
    assert metric.compute().item() == pytest.approx(ms_ssim_per_frame(x_hat, x).mean().item(), abs=1e-6)
