import math

import pytest
import torch

from lvc_zoo.blocks.gain import RateGain
from tests.gradients import assert_gradients_reach_all

SCALES = (0.5, 0.9, 2.0, 3.0)


def gain(rule="anchors", layers=1):
    module = RateGain(2, SCALES, layers, rule)
    with torch.no_grad():
        module.basic.copy_(torch.arange(1.0, 2 * layers + 1).view(layers, 2, 1, 1))
    return module


def test_gain_at_anchors_is_basic_times_scale():
    out = gain()(torch.arange(4.0))
    assert out.shape == (4, 2, 1, 1)
    expected = torch.tensor(SCALES)[:, None] * torch.tensor([1.0, 2.0])
    torch.testing.assert_close(out[:, :, 0, 0], expected)


@pytest.mark.parametrize("rate", [0.25, 1.5, 2.9])
def test_gain_between_anchors_is_log_linear(rate):
    below = int(rate)
    weight = rate - below
    expected = math.exp((1 - weight) * math.log(SCALES[below]) + weight * math.log(SCALES[below + 1]))
    assert gain()(torch.tensor([rate]))[0, 0].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rate", [0.0, 1.0, 1.7, 3.0])
def test_gain_geometric_rule_uses_first_and_last_anchor_alone(rate):
    expected = SCALES[0] * (SCALES[-1] / SCALES[0]) ** (rate / 3)
    assert gain("geometric")(torch.tensor([rate]))[0, 0].item() == pytest.approx(expected, rel=1e-6)


def test_gain_outside_anchors_is_clamped():
    module = gain()
    assert torch.equal(module(torch.tensor([-1.0, 7.0])), module(torch.tensor([0.0, 3.0])))


def test_gain_layer_beyond_table_takes_last_row():
    module, rate = gain(layers=3), torch.zeros(1)
    assert module(rate, 1)[0, 0].item() == pytest.approx(3 * SCALES[0])
    assert torch.equal(module(rate, 9), module(rate, 2))


def test_gain_of_single_anchor_ignores_rate():
    module = RateGain(3, (0.7,))
    torch.testing.assert_close(module(torch.tensor([0.0, 2.0])), torch.full((2, 3, 1, 1), 0.7))


def test_gain_gradients_reach_every_anchor():
    module = gain()
    assert_gradients_reach_all(module, module(torch.tensor([0.3, 2.2])))
    assert bool((module.scale.grad != 0).all())
