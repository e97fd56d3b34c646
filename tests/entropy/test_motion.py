"""Motion codec: the decoder's flows are the encoder's, and the shortcut codes the flow's low frequencies."""

import math

import pytest
import torch
from torch import nn

from lvc_zoo.blocks.motion import SpyNet
from lvc_zoo.codec.numeric import coding_mode
from lvc_zoo.entropy.coder import Noise, RateEstimator, SymbolReader, SymbolWriter
from lvc_zoo.entropy.motion import FLOW_WEIGHT, MotionCodec
from lvc_zoo.entropy.rans import ModelCache
from tests.gradients import assert_gradients_reach_all
from tests.miniature import moving_clip

LAMBDAS = (85.0, 840.0)
RATE = torch.tensor([1.0])
WIDTHS = (4, 4, 4, 4)


class Given(nn.Module):
    """An estimator that knows the flow."""

    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, x, reference):
        return self.flow


class Exact:
    """A coder that loses nothing."""

    def code(self, y, distribution, *, name):
        return y


def loud(**options):
    """Untrained, with latents that do not all round to zero."""
    torch.manual_seed(0)
    codec = MotionCodec(SpyNet(WIDTHS, 3), 12, LAMBDAS, width=16, **options)
    with torch.no_grad():
        codec.encoder.down3[-1].weight *= 60
        codec.latents.hyper.analysis[-1].weight *= 100
    return codec


def code_clip(codec, frames, coder_for):
    """Flows and states of each frame; frame t refers to the frames before it, two at the most."""
    results = []
    for poc in range(2, len(frames)):
        known = [state for _, state in results[-2:]]
        pictures = [frames[poc - 1 : poc], frames[poc - 2 : poc - 1]]
        x, coder = coder_for(poc)
        results.append(codec.code(x, pictures, known, coder, RATE))
    return results


@pytest.mark.parametrize("shortcut", [False, True])
def test_decoder_gets_the_flows_and_states_of_the_encoder(shortcut):
    codec, frames = loud(references=2, shortcut=shortcut).eval(), moving_clip(5, 48, 80)
    models, writers = ModelCache(), {}

    def writer(poc):
        writers[poc] = SymbolWriter(models)
        return frames[poc : poc + 1], writers[poc]

    with coding_mode(codec):
        coded = code_clip(codec, frames, writer)
        payloads = {poc: coder.finish() for poc, coder in writers.items()}
        codec.estimator = Given(None)  # the decoder has none
        decoded = code_clip(codec, frames, lambda poc: (None, SymbolReader(*payloads[poc], models)))
    assert all(sum(bits for name, bits in w.bits.items() if name.startswith("motion/")) > 0 for w in writers.values())
    for (flows, state), (flows_hat, state_hat) in zip(coded, decoded, strict=True):
        assert [flow.shape for flow in flows] == 2 * [(1, 2, 48, 80)]
        assert all(torch.equal(a, b) for a, b in zip((*flows, *state), (*flows_hat, *state_hat), strict=True))


def smooth_and_fine(height=32, width=48):
    """A flow of whole-block waves, by plane and block, and one that is too fine for the latent's few coefficients."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")

    def wave(rows, columns):
        return torch.cos(math.pi * rows * y / 16) * torch.cos(math.pi * columns * x / 16)

    smooth = torch.stack([3 + 2 * wave(1, 0) - wave(1, 1), -5 * wave(0, 1) + 1.5 * wave(2, 0)])
    fine = torch.stack([wave(7, 5), wave(0, 9)])
    return smooth[None], fine[None]


def test_shortcut_untrained_decodes_the_low_frequencies_of_the_flow():
    """12 coefficients of two planes are the waves up to the second order of each."""
    smooth, fine = smooth_and_fine()
    torch.manual_seed(0)
    codec = MotionCodec(SpyNet(WIDTHS, 3), 12, LAMBDAS, width=16, shortcut=True)
    codec.estimator = Given(smooth + fine)
    picture = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        (exact,), _ = codec.code(picture, [picture], [], Exact(), RATE)
        (rounded,), _ = codec.code(picture, [picture], [], RateEstimator(), RATE)
    # what the networks add is small, and rounding moves a coefficient by half a step, which the prior changes little
    assert float((exact - smooth).square().mean().sqrt()) < 0.03 * float(smooth.square().mean().sqrt())
    step = (2 / (FLOW_WEIGHT * LAMBDAS[1])) ** 0.5
    per_block = (rounded - exact).unflatten(2, (-1, 16)).unflatten(4, (-1, 16)).square().sum(dim=(1, 3, 5))
    assert float(per_block.max()) <= 12 * (step / 2) ** 2 * 1.5
    assert float((rounded - exact).abs().max()) > 0


def test_shortcut_rate_point_sets_the_step():
    smooth, _ = smooth_and_fine()
    torch.manual_seed(0)
    codec = MotionCodec(SpyNet(WIDTHS, 3), 12, LAMBDAS, width=16, shortcut=True)
    codec.estimator = Given(smooth)
    picture, errors, bits = torch.rand(1, 3, 32, 48), [], []
    for rate in (0.0, 1.0):
        estimator = RateEstimator()
        with torch.no_grad():
            (flow,), _ = codec.code(picture, [picture], [], estimator, torch.tensor([rate]))
        errors.append(float((flow - smooth).square().mean()))
        bits.append(float(sum(estimator.bits.values())))
    assert errors[0] > errors[1]
    assert bits[0] < bits[1]


@pytest.mark.parametrize("shortcut", [False, True])
def test_every_parameter_gets_a_gradient_over_three_frames(shortcut):
    codec, frames = loud(references=2, shortcut=shortcut), moving_clip(5, 64, 64)
    coders = {}

    def estimator(poc):
        coders[poc] = RateEstimator(Noise(0, 0, 0, poc))
        return frames[poc : poc + 1], coders[poc]

    results = code_clip(codec, frames, estimator)
    flows = torch.cat([flow.flatten() for flows, _ in results for flow in flows])
    bits = torch.cat([value for coder in coders.values() for value in coder.bits.values()])
    # a rate between the anchors meets the gains of both
    (flow, _), _ = codec.code(frames[:1], [frames[1:2], frames[2:3]], [], RateEstimator(), torch.tensor([0.4]))
    assert_gradients_reach_all(codec, torch.cat([flows, bits, flow.flatten()]))


def test_parameter_count_is_that_of_dcvc_dc():
    """Reference sheet, section 2.3; its four anchors bring a gain each at encoder and decoder."""
    codec = MotionCodec(SpyNet(), 64, (85.0, 170.0, 380.0, 840.0))
    networks = 424_832 + 184_640 + 144_064 + 153_152 + 166_016 + 735_104 + 3 * 49_344 + 963_904 + 379_336
    assert sum(p.numel() for p in codec.parameters()) == 960_200 + networks + 704 + 2 * (64 + 4)


def test_shortcut_without_width_raises():
    with pytest.raises(ValueError, match="give their width"):
        MotionCodec(SpyNet(WIDTHS, 3), 12, LAMBDAS, shortcut=True)
