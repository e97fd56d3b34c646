import pytest

from lvc_zoo.metrics import RDCurve, bd_rate

POINTS = ((0.05, 31.2), (0.11, 33.9), (0.23, 36.4), (0.52, 39.1), (1.1, 41.3))
METHODS = ("pchip", "akima")


def curve(name="codec", points=POINTS, scale=1.0, gain_db=0.0):
    return RDCurve(name=name, points=tuple((rate * scale, psnr + gain_db) for rate, psnr in points))


@pytest.mark.parametrize("method", METHODS)
def test_bd_rate_of_identical_curves_is_zero(method):
    assert bd_rate(curve(), curve(), method=method) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [0.5, 0.9, 2.0])
def test_bd_rate_of_scaled_rate_is_the_scale(scale, method):
    assert bd_rate(curve(), curve(scale=scale), method=method) == pytest.approx(100 * (scale - 1))


def test_bd_rate_of_straight_line_matches_closed_form():
    """On 3 dB a doubling, a gain of 1 dB saves 1 - 2^(-1/3) of the rate."""
    line = tuple((2.0**k, 30.0 + 3 * k) for k in range(5))
    saving = bd_rate(curve(points=line), curve(points=line, gain_db=1.0))
    assert saving == pytest.approx(100 * (2 ** (-1 / 3) - 1))


def test_bd_rate_accepts_unequal_numbers_of_points_in_any_order():
    assert bd_rate(curve(), curve(points=POINTS[::-1][1:], scale=0.5)) == pytest.approx(-50, abs=1.0)


def test_bd_rate_with_unknown_method_raises():
    with pytest.raises(ValueError, match="'cubic'; expected 'pchip' or 'akima'"):
        bd_rate(curve(), curve(), method="cubic")


@pytest.mark.parametrize("gain_db", [8.0, 10.1, 20.0])
def test_bd_rate_of_curves_apart_raises(gain_db):
    with pytest.raises(ValueError, match=r"'x265' \(31.20 to 41.30 dB\) and 'codec' .* share \d+% of their PSNR range"):
        bd_rate(curve("x265"), curve(gain_db=gain_db))


def test_bd_rate_without_any_overlap_raises_even_if_none_is_asked():
    with pytest.raises(ValueError, match="share 0%"):
        bd_rate(curve("x265"), curve(gain_db=20.0), min_overlap=0.0)


def test_bd_rate_with_lower_min_overlap_accepts_curves_apart():
    assert bd_rate(curve(), curve(gain_db=8.0), min_overlap=0.1) < -50


def test_curve_of_three_points_raises():
    with pytest.raises(ValueError, match="'codec' has 3 points; expected at least 4"):
        curve(points=POINTS[:3])


@pytest.mark.parametrize("bad", [(0.3, 36.0), (0.23, 37.0), (0.3, 36.4)])
def test_curve_that_does_not_rise_raises(bad):
    with pytest.raises(ValueError, match="'codec' is not monotone"):
        curve(points=(*POINTS, bad))


@pytest.mark.parametrize("bad", [(0.0, 20.0), (-1.0, 10.0), (2.0, float("inf")), (float("nan"), 50.0)])
def test_curve_with_impossible_point_raises(bad):
    with pytest.raises(ValueError, match="expected a positive rate and finite values"):
        curve(points=(*POINTS, bad))
