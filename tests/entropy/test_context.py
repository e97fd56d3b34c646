import pytest
import torch
from torch import nn

from lvc_zoo.blocks.conv import PointwiseConv
from lvc_zoo.codec.numeric import coding_mode
from lvc_zoo.entropy.coder import RateEstimator, SymbolReader, SymbolWriter
from lvc_zoo.entropy.context import ConditionalQuadtree, Hyperprior, QuadtreeContext, pack, phase_masks, unpack
from lvc_zoo.entropy.distributions import FactorisedPrior
from lvc_zoo.entropy.rans import ModelCache
from tests.gradients import assert_gradients_reach_all

SIZES = [(1, 1), (1, 4), (3, 5), (6, 8), (7, 7)]
# reference sheet, section 2.1: phase of each channel group in each step; a = (even row, even column), b = (even, odd),
# c = (odd, even), d = (odd, odd)
TABLE = ["abcd", "dcba", "cdab", "badc"]
OFFSETS = {"a": (0, 0), "b": (0, 1), "c": (1, 0), "d": (1, 1)}


class Spy:
    """A coder that decodes losslessly and remembers what it was given."""

    def __init__(self):
        self.calls = []

    def code(self, y, distribution, *, name):
        self.calls.append((name, y, distribution))
        return y


class Recorder(nn.Module):
    """An adaptor that remembers its input, followed by constant scales and means."""

    def __init__(self, channels, scale=1.0, mean=0.0):
        super().__init__()
        self.inputs = []
        self.out = torch.tensor([scale] * channels + [mean] * channels).view(1, -1, 1, 1)

    def forward(self, x):
        self.inputs.append(x)
        return self.out.expand(x.shape[0], -1, *x.shape[-2:])


def spied(channels=8, log_scale=False, **constants):
    recorder = Recorder(channels, **constants)
    return QuadtreeContext(channels, [recorder] * 3, [nn.Identity()] * 3, "laplace", log_scale=log_scale), recorder


def prior(y, step=1.0, scale=1.0, mean=0.0):
    return torch.cat([torch.full_like(y, value) for value in (step, scale, mean)], dim=1)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_quadtree_codes_each_position_once_at_the_phase_of_the_table(size):
    y = torch.arange(1.0, 1 + 8 * size[0] * size[1]).view(1, 8, *size)
    spy, (quadtree, _) = Spy(), spied()
    assert torch.equal(quadtree.code(y, prior(y), spy, "frame"), y)
    assert [name for name, _, _ in spy.calls] == [f"frame/{step}" for step in range(4)]
    for (_, packed, _), phases in zip(spy.calls, TABLE, strict=True):
        expected = torch.zeros(1, 2, *size)
        for group, phase in enumerate(phases):
            row, column = OFFSETS[phase]
            expected[..., row::2, column::2] = y[:, 2 * group : 2 * group + 2, row::2, column::2]
        assert torch.equal(packed, expected)
    assert sorted(torch.cat([packed.flatten() for _, packed, _ in spy.calls]).tolist()) == y.flatten().tolist()


def test_quadtree_steps_see_only_what_was_decoded_before():
    y = torch.arange(1.0, 1 + 8 * 4 * 6).view(1, 8, 4, 6)
    quadtree, recorder = spied()
    quadtree.code(y, prior(y), Spy(), "frame")
    for step, seen in enumerate(recorder.inputs, start=1):
        expected = torch.zeros_like(y)
        for phases in TABLE[:step]:
            for group, phase in enumerate(phases):
                row, column = OFFSETS[phase]
                place = (slice(None), slice(2 * group, 2 * group + 2), slice(row, None, 2), slice(column, None, 2))
                expected[place] = y[place]
        assert torch.equal(seen[:, :8], expected)
        assert torch.equal(seen[:, 8:], prior(y))


def test_quadtree_normalises_by_quantisation_step_of_at_least_half():
    y = torch.randn(1, 8, 4, 4)
    for step, divisor in ((0.1, 0.5), (4.0, 4.0)):
        spy, (quadtree, _) = Spy(), spied()
        y_hat = quadtree.code(y, prior(y, step=step), spy, "frame")
        torch.testing.assert_close(y_hat, y)
        torch.testing.assert_close(sum(packed.sum() for _, packed, _ in spy.calls), y.sum() / divisor)


def test_quadtree_first_step_takes_scale_and_mean_of_prior_and_later_ones_of_networks():
    y = torch.randn(1, 8, 2, 2)
    spy, (quadtree, _) = Spy(), spied(scale=5.0, mean=6.0)
    quadtree.code(y, prior(y, scale=2.0, mean=3.0), spy, "frame")
    values = [(d.scale.unique().tolist(), d.mean.unique().tolist()) for _, _, d in spy.calls]
    assert values == [([2.0], [3.0])] + 3 * [([5.0], [6.0])]


def test_quadtree_with_log_scale_predicts_relative_to_unit():
    y, unit = torch.randn(1, 8, 2, 2), torch.full((1, 8, 1, 1), 3.0)
    spy, (quadtree, recorder) = Spy(), spied(log_scale=True, scale=0.0, mean=2.0)
    quadtree.code(y, prior(y, scale=1.0, mean=-1.0), spy, "frame", unit)
    values = [(d.scale[0, 0, 0, 0].item(), d.mean[0, 0, 0, 0].item()) for _, _, d in spy.calls]
    assert values[0] == pytest.approx((3 * 2.718281828, -3.0))
    assert values[1:] == 3 * [pytest.approx((3.0, 6.0))]
    assert recorder.inputs[-1][:, :8].abs().max().item() <= y.abs().max().item() / 3


@pytest.mark.parametrize("shared", [False, True])
def test_quadtree_gradients_reach_every_network(shared):
    torch.manual_seed(0)
    networks = [PointwiseConv(12, 16) for _ in range(1 if shared else 3)]
    quadtree = QuadtreeContext(
        8, [PointwiseConv(32, 12) for _ in range(3)], networks * (3 if shared else 1), "gaussian", log_scale=True
    )
    estimator = RateEstimator()
    y = torch.randn(2, 8, 3, 5) * 3
    y_hat = quadtree.code(y, torch.rand(2, 24, 3, 5), estimator, "frame")
    assert y_hat.shape == y.shape
    assert len(quadtree.networks) == (1 if shared else 3)
    assert_gradients_reach_all(quadtree, torch.stack(list(estimator.bits.values())))


def test_quadtree_of_odd_channels_raises():
    with pytest.raises(ValueError, match="multiple of 4 channels, got 6"):
        QuadtreeContext(6, [], [], "laplace")


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_masks_of_a_step_cover_each_position_once_and_unpack_inverts_pack(size):
    masks = phase_masks(*size, torch.device("cpu"), torch.float32)
    assert masks.shape == (4, 4, 1, *size)
    assert torch.equal(masks.sum(dim=0), torch.ones(4, 1, *size))
    assert torch.equal(masks.sum(dim=1), torch.ones(4, 1, *size))
    packed = torch.randn(2, 3, *size)
    for mask in masks:
        assert torch.equal(pack(unpack(packed, mask), mask), packed)


def test_hyperprior_pads_codes_and_crops():
    spy, y = Spy(), torch.arange(15.0).reshape(1, 1, 3, 5)
    hyper = Hyperprior(nn.AvgPool2d(4), FactorisedPrior(1), nn.Upsample(scale_factor=4))
    params = hyper.code(y, (1, 3, 5), spy, "hyper/frame")
    name, z, distribution = spy.calls[0]
    assert (name, distribution.shape) == ("hyper/frame", (1, 1, 1, 2))
    padded = torch.cat([y, y[:, :, -1:]], dim=2)
    left, right = padded[..., :4].mean(), padded[..., 4].mean()
    torch.testing.assert_close(z.flatten(), torch.stack([left, right]))
    torch.testing.assert_close(params[0, 0], torch.cat([left.expand(3, 4), right.expand(3, 1)], dim=1))


def conditional(width, **options):
    """8 latent channels after 4 of one context, 6 hyper parameters and at most one state."""
    torch.manual_seed(0)
    latents = ConditionalQuadtree(8, 6, known=4, references=1, inner=12, width=width, **options)
    with torch.no_grad():
        latents.hyper.analysis[-1].weight *= 100
    return latents


FORMS = {"official": (None, None), "small": (10, torch.linspace(0.5, 4, 8).view(1, 8, 1, 1))}


@pytest.mark.parametrize(("width", "unit"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("num_states", [0, 1])
def test_conditional_decoder_gets_what_the_encoder_made(width, unit, num_states):
    latents = conditional(width).eval()
    y, known, states = 6 * torch.randn(1, 8, 5, 7), [torch.randn(1, 4, 5, 7)], [torch.randn(1, 8, 5, 7)] * num_states
    models = ModelCache()
    with coding_mode(latents):
        writer = SymbolWriter(models)
        y_hat = latents.code(y, (1, 5, 7), writer, "frame", known=known, states=states, unit=unit)
        reader = SymbolReader(*writer.finish(), models)
        decoded = latents.code(None, (1, 5, 7), reader, "frame", known=known, states=states, unit=unit)
        reader.finish()
        estimated = latents.code(y, (1, 5, 7), RateEstimator(), "frame", known=known, states=states, unit=unit)
    assert list(writer.bits) == ["hyper/frame", *(f"frame/{step}" for step in range(4))]
    assert torch.equal(decoded, y_hat)
    assert torch.equal(estimated, y_hat)
    # steps may be as coarse as the untrained prior says, but the latent is the one that was given
    assert float(torch.corrcoef(torch.stack([y.flatten(), y_hat.flatten()]))[0, 1]) > 0.9


def test_conditional_prior_sees_contexts_then_hyper_then_states():
    """The adaptor is the one for the number of states that are known."""

    class Constant(nn.Module):
        def code(self, y, shape, coder, name):
            return torch.full((1, 6, 3, 5), 0.25)

    latents, seen = conditional(None), []
    latents.hyper = Constant()
    for number, adaptor in enumerate(latents.adaptors):
        adaptor.register_forward_pre_hook(lambda _, args, number=number: seen.append((number, args[0])))
    y, context, state = torch.randn(1, 8, 3, 5), torch.randn(1, 4, 3, 5), torch.randn(1, 8, 3, 5)
    for states in ([], [state]):
        latents.code(y, (1, 3, 5), Spy(), "frame", known=[context], states=states)
    hyper = torch.full((1, 6, 3, 5), 0.25)
    assert [number for number, _ in seen] == [0, 1]
    assert torch.equal(seen[0][1], torch.cat([context, hyper], dim=1))
    assert torch.equal(seen[1][1], torch.cat([context, hyper, state], dim=1))


def test_conditional_with_unit_shows_the_hyper_analysis_bounded_magnitudes():
    latents, seen = conditional(10), []
    latents.hyper.analysis.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    unit = torch.full((1, 8, 1, 1), 2.0)
    for y in (torch.full((1, 8, 4, 4), 1e6), torch.full((1, 8, 4, 4), 0.02)):
        latents.code(y, (1, 4, 4), Spy(), "frame", known=[torch.zeros(1, 4, 4, 4)], unit=unit)
    assert float(seen[0].max()) <= 8
    assert seen[1].mean().item() == pytest.approx(0.01, rel=0.01)


def test_conditional_small_form_starts_with_scale_and_mean_of_the_unit():
    """Untrained, each symbol's law is about as wide as its unit and centred: what a coder without networks would do."""
    latents, spy = conditional(10), Spy()
    unit = torch.full((1, 8, 1, 1), 3.0)
    y = torch.randn(1, 8, 4, 4) * 3
    with torch.no_grad():
        latents.code(y, (1, 4, 4), spy, "frame", known=[torch.randn(1, 4, 4, 4)], unit=unit)
    for _, _, distribution in spy.calls[1:]:
        assert float((distribution.scale / 3).log().abs().max()) < 0.7
        assert float(distribution.mean.abs().max()) < 2


@pytest.mark.parametrize(("width", "unit"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("shared", [False, True])
def test_conditional_gradients_reach_every_parameter(width, unit, shared):
    latents, outputs = conditional(width, shared=shared), []
    for num_states in (0, 1):
        estimator, y = RateEstimator(), 6 * torch.randn(2, 8, 5, 7)
        known, states = [torch.randn(2, 4, 5, 7)], [torch.randn(2, 8, 5, 7)] * num_states
        y_hat = latents.code(y, (2, 5, 7), estimator, "frame", known=known, states=states, unit=unit)
        outputs += [y_hat.flatten(), *estimator.bits.values()]
    assert_gradients_reach_all(latents, torch.cat(outputs))


def test_conditional_parameter_counts_are_those_of_dcvc_dc():
    """Reference sheet, section 2.3: adaptors, fusion, three spatial adaptors, one spatial network for three steps."""
    latents = ConditionalQuadtree(128, 128, known=128, references=1, inner=384)
    parts = [*latents.adaptors, latents.fusion, *latents.quadtree.adaptors, *latents.quadtree.networks]
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert counts == [1_053_568, 1_087_360, 2_174_720, 196_992, 196_992, 196_992, 3_049_088]
