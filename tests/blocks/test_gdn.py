import pytest
import torch

from lvc_zoo.blocks.gdn import GDN
from tests.gradients import assert_gradients_reach_all


def loud(channels, inverse=False):
    """Random stored values, a few of them below their bounds."""
    torch.manual_seed(0)
    gdn = GDN(channels, inverse=inverse)
    with torch.no_grad():
        gdn.beta.normal_(0.3, 0.5)
        gdn.gamma.normal_(0.1, 0.3)
    return gdn


def by_hand(gdn, x):
    """The formula in Python floats, for `x` of C numbers at one position (reference sheet, section 1.2)."""
    pedestal = 2.0**-36
    beta = [max(b, (1e-6 + pedestal) ** 0.5) ** 2 - pedestal for b in gdn.beta.tolist()]
    gamma = [[max(g, 2.0**-18) ** 2 - pedestal for g in row] for row in gdn.gamma.tolist()]
    norm = [b + sum(g * v * v for g, v in zip(row, x, strict=True)) for b, row in zip(beta, gamma, strict=True)]
    return [v * n**0.5 if gdn.inverse else v / n**0.5 for v, n in zip(x, norm, strict=True)]


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_equals_formula(inverse):
    gdn, x = loud(4, inverse), 2 * torch.randn(2, 4, 3, 5)
    assert bool((gdn.beta < 0).any() and (gdn.gamma < 0).any())
    out = gdn(x)
    for position in ((0, 0, 0), (0, 2, 4), (1, 1, 3)):
        picture, row, column = position
        expected = by_hand(gdn, x[picture, :, row, column].tolist())
        assert out[picture, :, row, column].tolist() == pytest.approx(expected, rel=1e-5)


def test_gdn_starts_with_beta_one_and_a_tenth_of_each_own_square():
    x = torch.randn(1, 6, 2, 2)
    torch.testing.assert_close(GDN(6)(x), x / (1 + 0.1 * x.square()).sqrt())


def test_inverse_gdn_multiplies_by_what_gdn_divides_by():
    x = torch.randn(1, 6, 3, 3)
    torch.testing.assert_close(loud(6)(x) * loud(6, inverse=True)(x), x.square())


def test_gdn_gradients_reach_all_and_leave_the_bound_upwards():
    gdn = GDN(3)
    assert_gradients_reach_all(gdn, gdn(torch.randn(2, 3, 4, 4)))
    # x / sqrt(beta) falls with beta: descent on it wants beta up, ascent wants it down
    for sign, moves in ((1.0, True), (-1.0, False)):
        gdn = GDN(1)
        with torch.no_grad():
            gdn.beta.fill_(-1.0)
        (sign * gdn(torch.ones(1, 1, 2, 2)).sum()).backward()
        assert bool(gdn.beta.grad.abs() > 0) == moves


def test_gdn_under_autocast_stays_in_float32():
    gdn, x = GDN(4), torch.randn(1, 4, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = gdn(x)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, gdn(x))
