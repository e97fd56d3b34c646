import math

import bjontegaard
import pytest
import torch

from lvc_zoo.metrics import RDCurve, RDCurveMetric

RATES, PSNRS = (0.06, 0.13, 0.3, 0.7), (31.0, 33.4, 36.1, 38.8)
REFERENCE = RDCurve(name="x265", points=((0.05, 31.2), (0.11, 33.9), (0.23, 36.4), (0.52, 39.1), (1.1, 41.3)))


def filled(metric):
    for anchor, (rate, psnr) in enumerate(zip(RATES, PSNRS, strict=True)):
        metric.update(anchor, torch.tensor([rate - 0.01, rate + 0.01]), torch.tensor([psnr + 1, psnr - 1]))
    return metric


def test_rd_curve_is_the_mean_over_clips_by_anchor():
    values = filled(RDCurveMetric(4)).compute()
    assert [values[f"bpp_{anchor}"].item() for anchor in range(4)] == pytest.approx(RATES)
    assert [values[f"psnr_db_{anchor}"].item() for anchor in range(4)] == pytest.approx(PSNRS)
    assert values["bd_rate"].isnan()


def test_rd_curve_bd_rate_is_that_of_bjontegaard():
    rate, psnr = zip(*REFERENCE.points, strict=True)
    expected = bjontegaard.bd_rate(rate, psnr, RATES, PSNRS, "pchip", require_matching_points=False, min_overlap=0)
    assert filled(RDCurveMetric(4, REFERENCE)).compute()["bd_rate"].item() == pytest.approx(expected, rel=1e-5)


def test_rd_curve_takes_anchors_by_sample():
    metric = RDCurveMetric(2)
    metric.update(torch.tensor([1, 0, 1]), torch.tensor([0.4, 0.1, 0.6]), torch.tensor([36.0, 30.0, 38.0]))
    values = {name: value.item() for name, value in metric.compute().items()}
    assert (values["bpp_0"], values["psnr_db_0"]) == pytest.approx((0.1, 30.0))
    assert (values["bpp_1"], values["psnr_db_1"]) == pytest.approx((0.5, 37.0))


def test_rd_curve_states_add_up_over_processes():
    """What a reduction by sum does: two halves give the whole."""
    whole, halves = RDCurveMetric(1), [RDCurveMetric(1), RDCurveMetric(1)]
    data = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
    whole.update(0, data[:, 0], data[:, 1])
    for half, part in zip(halves, data.split(3), strict=True):
        half.update(0, part[:, 0], part[:, 1])
    assert {reduction.__name__ for reduction in whole._reductions.values()} == {"dim_zero_sum"}
    total = halves[0].rate_bpp + halves[1].rate_bpp
    assert (total / (halves[0].count + halves[1].count)).item() == pytest.approx(whole.compute()["bpp_0"].item())


@pytest.mark.parametrize("anchors", [3, 5])
def test_rd_curve_bd_rate_without_enough_points_is_nan(anchors):
    """Three anchors make no curve; of five, one was never seen."""
    metric = RDCurveMetric(anchors, REFERENCE)
    for anchor in range(min(anchors, 4)):
        metric.update(anchor, torch.tensor(RATES[anchor]), torch.tensor(PSNRS[anchor]))
    values = metric.compute()
    assert values["bd_rate"].isnan()
    assert math.isnan(values[f"bpp_{anchors - 1}"]) == (anchors == 5)


def test_rd_curve_bd_rate_of_falling_quality_is_nan():
    metric = RDCurveMetric(4, REFERENCE)
    for anchor in range(4):
        metric.update(anchor, torch.tensor(RATES[anchor]), torch.tensor(PSNRS[3 - anchor]))
    assert metric.compute()["bd_rate"].isnan()


def test_rd_curve_holds_no_graph():
    metric = RDCurveMetric(1)
    metric.update(0, torch.tensor(0.1, requires_grad=True), torch.tensor(30.0))
    assert not metric.compute()["bpp_0"].requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, torch.tensor(0.1), torch.tensor(30.0)), r"anchor is \[4\]; expected 0 to 3"),
        ((0, torch.ones(2), torch.ones(3)), "rate_bpp has 2 values and psnr_db has 3"),
    ],
)
def test_rd_curve_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        RDCurveMetric(4).update(*arguments)


def test_rd_curve_without_anchors_raises():
    with pytest.raises(ValueError, match="anchors is 0"):
        RDCurveMetric(0)
