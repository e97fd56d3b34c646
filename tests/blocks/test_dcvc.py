import pytest
import torch
from torch import nn

from lvc_zoo.blocks.conv import Conv2d, DepthConvBlock, DWConvBlock, PointwiseConv
from lvc_zoo.blocks.dcvc import (
    ContextualDecoder,
    ContextualEncoder,
    HyperAnalysis,
    HyperSynthesis,
    MotionDecoder,
    MotionEncoder,
    QuietHead,
    Reconstruction,
    initialise_unit_gain,
    quieten,
)
from lvc_zoo.blocks.pyramid import FeaturePyramid
from tests.gradients import assert_gradients_reach_all


def contexts(widths, batch=1, size=(32, 48)):
    """A context function with fixed contexts, and the list of (level, shape) that it was asked with."""
    torch.manual_seed(1)
    stored = {level: torch.randn(batch, c, size[0] >> level, size[1] >> level) for level, c in widths.items()}
    asked = []

    def context(level, current):
        asked.append((level, tuple(current.shape)))
        return stored[level]

    return context, asked


@pytest.mark.parametrize("light", [True, False])
def test_feature_pyramid_halves_size_twice(light):
    torch.manual_seed(0)
    pyramid, x = FeaturePyramid((4, 6, 8), light=light), torch.randn(2, 4, 16, 24)
    out = pyramid(x)
    assert [tuple(f.shape) for f in out] == [(2, 4, 16, 24), (2, 6, 8, 12), (2, 8, 4, 6)]
    assert torch.equal(out[0], x) is light
    assert_gradients_reach_all(pyramid, torch.cat([f.flatten() for f in out]))


@pytest.mark.parametrize("strides", [(1, 2, 2), (1, 1, 2, 1, 2)])
def test_hyper_analysis_gives_quarter_size(strides):
    torch.manual_seed(0)
    analysis = HyperAnalysis(12, 8, strides)
    out = analysis(torch.randn(2, 12, 4, 8))
    assert out.shape == (2, 8, 1, 2)
    assert_gradients_reach_all(analysis, out)


def test_hyper_synthesis_gives_fourfold_size():
    torch.manual_seed(0)
    synthesis = HyperSynthesis(8, 12)
    out = synthesis(torch.randn(2, 8, 1, 2))
    assert out.shape == (2, 12, 4, 8)
    assert_gradients_reach_all(synthesis, out)


def test_motion_encoder_takes_up_to_all_reference_features():
    torch.manual_seed(0)
    encoder, gain = MotionEncoder(4, 8, references=2), torch.ones(1, 8, 1, 1)
    flows, features = torch.randn(1, 4, 32, 48), [torch.randn(1, 8, 8, 12) for _ in range(2)]
    outputs = [encoder(flows, features[:n], gain) for n in range(3)]
    assert {tuple(out.shape) for out in outputs} == {(1, 8, 2, 3)}
    assert_gradients_reach_all(encoder, torch.cat([out.flatten() for out in outputs]))


def test_motion_decoder_gives_flows_and_quarter_feature():
    torch.manual_seed(0)
    decoder = MotionDecoder(8, 4)
    flows, feature = decoder(torch.randn(1, 8, 2, 3), torch.ones(1, 8, 1, 1))
    assert (flows.shape, feature.shape) == ((1, 4, 32, 48), (1, 8, 8, 12))
    assert_gradients_reach_all(decoder, flows)


def test_contextual_encoder_asks_for_contexts_from_fine_to_coarse():
    torch.manual_seed(0)
    encoder = ContextualEncoder(3, (6, 8), (4, 6, 8), latent=12)
    context, asked = contexts({0: 4, 1: 6, 2: 8})
    out = encoder(torch.randn(1, 3, 32, 48), context, torch.ones(1, 12, 1, 1))
    assert out.shape == (1, 12, 2, 3)
    assert asked == [(0, (1, 3, 32, 48)), (1, (1, 6, 16, 24)), (2, (1, 8, 8, 12))]
    assert_gradients_reach_all(encoder, out)


def test_contextual_decoder_asks_for_contexts_from_coarse_to_fine():
    torch.manual_seed(0)
    decoder = ContextualDecoder(12, (4, 6, 8), (6, 8))
    context, asked = contexts({1: 6, 2: 8})
    out = decoder(torch.randn(1, 12, 2, 3), context, torch.ones(1, 6, 1, 1))
    assert out.shape == (1, 4, 32, 48)
    assert asked == [(2, (1, 8, 8, 12)), (1, (1, 6, 16, 24))]
    assert_gradients_reach_all(decoder, out)


def test_reconstruction_gives_picture_and_feature():
    torch.manual_seed(0)
    reconstruction = Reconstruction(10, 6, (4, 4, 8), depth=1, unets=2)
    picture, feature = reconstruction(torch.randn(2, 4, 16, 16), torch.randn(2, 6, 16, 16))
    assert (picture.shape, feature.shape) == ((2, 3, 16, 16), (2, 6, 16, 16))
    assert_gradients_reach_all(reconstruction, picture)


def test_reconstruction_adds_its_base():
    torch.manual_seed(0)
    reconstruction = Reconstruction(9, 6, (4, 4, 8), depth=1, unets=1)
    torch.nn.init.zeros_(reconstruction.picture.weight)
    torch.nn.init.zeros_(reconstruction.picture.bias)
    base = torch.randn(1, 3, 16, 16)
    picture, _ = reconstruction(torch.randn(1, 2, 16, 16), torch.randn(1, 4, 16, 16), base)
    assert torch.equal(picture, base)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: [MotionEncoder(4, 64, references=2)], 522880),
        (lambda: [MotionDecoder(64, 4)], 379856),
        (lambda: [HyperAnalysis(64, 64, (1, 1, 2, 1, 2)), HyperSynthesis(64, 64)], 328704),
        (lambda: [HyperAnalysis(128, 128), HyperSynthesis(128, 128)], 1017600),
        (lambda: [FeaturePyramid((48, 64, 96), light=True)], 323040),
        (lambda: [DWConvBlock(d, d) for d in (48, 64, 96)] * 2, 67456),
        (lambda: [DWConvBlock(c, d) for c, d in ((32, 48), (64, 64), (96, 96))], 34544),
        (lambda: [Conv2d(3, 32)], 896),
        (lambda: [ContextualEncoder(32, (64, 96), (48, 64, 96), 128)], 913248),
        (lambda: [ContextualDecoder(128, (32, 64, 96), (64, 96))], 1844832),
        (lambda: [Reconstruction(80, 48)], 2053251),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_part_at_paper_size_has_parameters_of_reference_sheet(make, expected):
    """Section 4.4 of the reference sheet."""
    assert sum(p.numel() for part in make() for p in part.parameters()) == expected


def test_quiet_head_starts_near_ones_and_zeros():
    torch.manual_seed(0)
    out = QuietHead(64, 12, ones=4)(torch.randn(8, 64, 5, 5))
    expected = torch.tensor([1.0] * 4 + [0.0] * 8).view(1, -1, 1, 1)
    assert (out - expected).abs().mean().item() < 0.15


def test_unit_gain_initialisation_keeps_signal_power_and_skips_residual_branches():
    torch.manual_seed(0)
    net = nn.Sequential(Conv2d(64, 64), PointwiseConv(64, 96), DepthConvBlock(96, 96), DepthConvBlock(96, 64))
    branch = net[2].spatial.conv2.weight.clone()
    initialise_unit_gain(net)
    assert torch.equal(net[2].spatial.conv2.weight, branch)
    power = net[:2](torch.randn(4, 64, 16, 16)).square().mean().item()
    assert power == pytest.approx(1, rel=0.15)
    assert net[3].spatial.skip.weight.std().item() == pytest.approx(96**-0.5, rel=0.05)


def test_quieten_scales_weights_to_a_hundredth():
    conv = Conv2d(2, 3)
    before = conv.weight.detach().clone(), conv.bias.detach().clone()
    quieten(conv)
    torch.testing.assert_close(conv.weight.detach(), before[0] / 100)
    assert torch.equal(conv.bias, before[1])
