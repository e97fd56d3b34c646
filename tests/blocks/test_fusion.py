import pytest
import torch

from lvc_zoo.blocks.fusion import MultiScaleContextFusion
from tests.gradients import assert_gradients_reach_all


def pyramid(batch=1):
    return [torch.randn(batch, c, 16 // 2**i, 24 // 2**i) for i, c in enumerate((8, 12, 16))]


@pytest.mark.parametrize("up_kernel", [1, 3])
def test_fusion_keeps_shapes_and_trains_every_parameter(up_kernel):
    torch.manual_seed(0)
    fusion, contexts = MultiScaleContextFusion((8, 12, 16), up_kernel), pyramid(batch=2)
    out = fusion(contexts)
    assert [o.shape for o in out] == [c.shape for c in contexts]
    assert_gradients_reach_all(fusion, torch.cat([o.flatten() for o in out]))


def test_fusion_passes_information_from_coarse_to_fine_only():
    torch.manual_seed(0)
    fusion, contexts = MultiScaleContextFusion((8, 12, 16)), pyramid()
    before = fusion(contexts)
    for changed in range(3):
        other = [c + 1 if i == changed else c for i, c in enumerate(contexts)]
        same = [torch.equal(a, b) for a, b in zip(before, fusion(other), strict=True)]
        assert same == [level > changed for level in range(3)]


def test_light_fusion_parameter_count_is_published_one():
    """Reference sheet, section 4.4, MCF-lite."""
    fusion = MultiScaleContextFusion((48, 64, 96), up_kernel=1)
    assert sum(p.numel() for p in fusion.parameters()) == 644880
