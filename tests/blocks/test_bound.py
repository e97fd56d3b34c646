import pytest
import torch

from lvc_zoo.blocks.bound import at_least


@pytest.mark.parametrize(
    ("value", "direction", "gradient"),
    [(2.0, 1.0, 1.0), (2.0, -1.0, -1.0), (0.5, 1.0, 0.0), (0.5, -1.0, -1.0), (1.0, 1.0, 1.0)],
)
def test_at_least_gradient_below_bound_passes_only_upwards(value, direction, gradient):
    x = torch.tensor(value, requires_grad=True)
    bounded = at_least(x, 1.0)
    (direction * bounded).backward()
    assert bounded.item() == max(value, 1.0)
    assert x.grad.item() == gradient
