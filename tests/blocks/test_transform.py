import math

import pytest
import torch
import torch.nn.functional as F

from lvc_zoo.blocks.transform import BlockTransform, block_cosine_basis, soft_limit
from tests.gradients import assert_gradients_reach_all


@pytest.mark.parametrize(("channels", "size"), [(768, 16), (160, 16), (12, 2)])
def test_basis_rows_are_orthonormal(channels, size):
    basis = block_cosine_basis(channels, size).double()
    torch.testing.assert_close(basis @ basis.T, torch.eye(channels, dtype=torch.float64), rtol=0, atol=1e-6)


def test_transform_with_all_coefficients_reconstructs_perfectly():
    torch.manual_seed(0)
    transform, x = BlockTransform(768), torch.rand(2, 3, 32, 48)
    coefficients = transform.analysis(x)
    assert coefficients.shape == (2, 768, 2, 3)
    torch.testing.assert_close(transform.synthesis(coefficients), x, rtol=0, atol=1e-5)


def test_transform_with_fewer_coefficients_projects_onto_its_rows():
    torch.manual_seed(0)
    transform, x = BlockTransform(100), torch.rand(1, 3, 16, 16)
    once = transform.synthesis(transform.analysis(x))
    torch.testing.assert_close(transform.synthesis(transform.analysis(once)), once, rtol=0, atol=1e-5)
    energies = [part.square().sum().item() for part in (x, once, x - once)]
    assert energies[0] == pytest.approx(energies[1] + energies[2], rel=1e-5)


def test_analysis_equals_strided_convolution():
    torch.manual_seed(0)
    transform, x = BlockTransform(40, size=8), torch.rand(2, 3, 16, 24)
    weight = transform.analysis_weight.reshape(40, 3, 8, 8)
    torch.testing.assert_close(transform.analysis(x), F.conv2d(x, weight, stride=8), rtol=0, atol=1e-5)


def test_analysis_of_horizontal_cosine_finds_it_alone():
    """A grey cosine of frequency k is one row of the DCT: all of its energy meets in one coefficient."""
    wave = torch.cos(math.pi * 3 * (torch.arange(16) + 0.5) / 16)
    coefficients = BlockTransform(768).analysis(wave.expand(1, 3, 16, 16))[0, :, 0, 0].abs()
    assert coefficients.max().item() == pytest.approx(math.sqrt(3 * 16 * 8), rel=1e-5)
    assert coefficients.sort().values[-2].item() < 1e-4


def test_analysis_of_grey_picture_is_first_coefficient():
    coefficients = BlockTransform(20).analysis(torch.full((1, 3, 16, 16), 0.25))[0, :, 0, 0]
    assert coefficients[0].item() == pytest.approx(0.25 * math.sqrt(768), rel=1e-5)
    assert coefficients[1:].abs().max().item() < 1e-5


def test_transform_gradients_reach_both_weights():
    torch.manual_seed(0)
    transform = BlockTransform(12, size=4)
    out = transform.synthesis(transform.analysis(torch.rand(1, 3, 8, 8)))
    assert_gradients_reach_all(transform, out)


@pytest.mark.parametrize("channels", [0, 49])
def test_transform_with_impossible_channels_raises(channels):
    with pytest.raises(ValueError, match=f"{channels} coefficients of a 4x4x3 block, expected 1 to 48"):
        BlockTransform(channels, size=4)


def test_soft_limit_is_odd_monotone_and_bounded():
    y = torch.linspace(-1e3, 1e3, 1001)
    out = soft_limit(y)
    assert soft_limit(torch.tensor(1e30)).item() <= 8
    assert out.abs().max().item() < 8
    assert bool((out.diff() > 0).all())
    torch.testing.assert_close(soft_limit(-y), -out)
    assert soft_limit(torch.tensor(0.01)).item() == pytest.approx(0.01, rel=2e-3)
