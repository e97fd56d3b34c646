import torch

from lvc_zoo.blocks.gating import GatedContextFusion
from tests.gradients import assert_gradients_reach_all


def fuse(gated):
    torch.manual_seed(0)
    fusion = GatedContextFusion(4, 12, 8, gated=gated)
    return fusion, torch.randn(2, 4, 5, 6), torch.randn(2, 12, 5, 6)


def test_gated_fusion_is_sigmoid_times_reduced_context():
    fusion, current, context = fuse(gated=True)
    gate = 1 / (1 + torch.exp(-fusion.gate[0](torch.cat([current, context], dim=1))))
    out = fusion(current, context)
    torch.testing.assert_close(out, gate * fusion.reduce(context))
    assert out.shape == (2, 8, 5, 6)
    assert_gradients_reach_all(fusion, out)


def test_fusion_without_gate_ignores_current_feature():
    fusion, current, context = fuse(gated=False)
    assert torch.equal(fusion(current, context), fusion.reduce(context))
    assert torch.equal(fusion(current, context), fusion(-current, context))


def test_gating_parameter_count_of_three_scales_is_published_one():
    """Reference sheet, section 4.4: 2,797,088 a side."""
    scales = [(32, 192, 48), (64, 512, 64), (96, 768, 96)]
    counts = [sum(p.numel() for p in GatedContextFusion(*widths).parameters()) for widths in scales]
    assert counts == [169088, 811584, 1816416]
