import pytest
import torch

from lvc_zoo.blocks.fusion import ContextRefinement, InceptionFusion, MultiScaleContextFusion
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


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize("form", ["full", "light"])
def test_refinement_keeps_shapes_and_trains_every_parameter(form):
    torch.manual_seed(0)
    refinement, contexts = ContextRefinement((8, 12, 16), form), pyramid(batch=2)
    hidden = refinement.spread(torch.randn(2, 8, 16, 24))
    out = refinement(contexts, hidden)
    assert [h.shape for h in hidden] == [o.shape for o in out] == [c.shape for c in contexts]
    assert_gradients_reach_all(refinement, torch.cat([o.flatten() for o in out]))


def test_refinement_parameter_counts_are_counted_ones():
    # reference sheet, CHOICE-6 and CHOICE-7; the light form below them
    full, light = ContextRefinement((48, 64, 96)), ContextRefinement((48, 64, 96), "light")
    assert count(full.pyramid, full.fusion) == 1_423_488
    assert count(full.join) == 281_296
    assert count(light) == 364_400


@pytest.mark.parametrize(("form", "skip"), [("full", 0.0), ("light", 1.0)])
def test_refinement_joins_context_and_hidden_state_in_that_order(form, skip):
    """With joins that add twice the context and three times the hidden state, pixel by pixel."""
    torch.manual_seed(0)
    refinement, contexts = ContextRefinement((8, 12, 16), form), pyramid()
    hidden = [torch.randn_like(context) for context in contexts]
    with torch.no_grad():
        for join in refinement.join:
            width = join.out_channels
            join.weight.zero_()
            join.bias.fill_(0.5)
            join.weight[:, :, 1, 1] = torch.cat([2 * torch.eye(width), 3 * torch.eye(width)], dim=1)
    for out, context, state in zip(refinement(contexts, hidden), contexts, hidden, strict=True):
        torch.testing.assert_close(out, (2 + skip) * context + 3 * state + 0.5)


def test_light_refinement_passes_the_hidden_state_unchanged_at_full_size():
    torch.manual_seed(0)
    hidden = torch.randn(1, 8, 16, 24)
    assert torch.equal(ContextRefinement((8, 12, 16), "light").spread(hidden)[0], hidden)
    assert not torch.equal(ContextRefinement((8, 12, 16)).spread(hidden)[0], hidden)


def test_inception_keeps_shape_and_trains_every_parameter():
    torch.manual_seed(0)
    fusion, (spatial, temporal) = InceptionFusion(8), torch.randn(2, 2, 8, 6, 10)
    out = fusion(spatial, temporal)
    assert out.shape == temporal.shape
    assert_gradients_reach_all(fusion, out)


def test_inception_parameter_count_is_counted_one():
    # reference sheet, CHOICE-11
    assert count(*(InceptionFusion(width) for width in (48, 64, 96))) == 227_264


def test_inception_of_constant_contexts_is_matrix_arithmetic():
    """Away from the border a convolution of a constant is the sum of its taps, and the maximum is the constant."""
    torch.manual_seed(0)
    fusion, spatial, temporal = InceptionFusion(8), torch.randn(8), torch.randn(8)
    with torch.no_grad():
        out = fusion(*(x.view(1, 8, 1, 1).expand(1, 8, 11, 11) for x in (spatial, temporal)))[0, :, 5, 5]

        def linear(layer, x):
            return layer.weight.sum(dim=(2, 3)) @ x + layer.bias

        def leaky(x):
            return torch.maximum(x, x / 10)

        both = torch.cat([spatial, temporal])
        wider = [linear(branch[2], leaky(linear(branch[0], both))) for branch in (fusion.branch3, fusion.branch5)]
        branches = [linear(fusion.branch1, both), *wider, linear(fusion.pooled, both)]
        expected = temporal + linear(fusion.out, leaky(torch.cat(branches)))
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(("branch", "reach"), [(0, 0), (1, 1), (2, 2), (3, 1)], ids=["1x1", "3x3", "5x5", "pooled"])
def test_inception_branch_reaches_as_far_as_its_kernel(branch, reach):
    torch.manual_seed(0)
    fusion, temporal = InceptionFusion(8), torch.zeros(1, 8, 11, 11)
    with torch.no_grad():
        # every other branch is cut off
        fusion.out.weight[:, [n for n in range(16) if n // 4 != branch]] = 0
        spatial = torch.rand(1, 8, 11, 11)
        before = fusion(spatial, temporal)
        spatial[..., 5, 5] += 2
        changed = ((fusion(spatial, temporal) - before).abs().amax(dim=(0, 1)) > 0).nonzero()
    assert (changed.amin(dim=0) - 5).tolist() == [-reach, -reach]
    assert (changed.amax(dim=0) - 5).tolist() == [reach, reach]
    assert len(changed) == (2 * reach + 1) ** 2
