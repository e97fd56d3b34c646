import copy
import math
from itertools import pairwise

import pytest
import torch

from lvc_zoo.entropy import rans
from lvc_zoo.entropy.coder import SymbolReader, SymbolWriter
from lvc_zoo.entropy.distributions import (
    BoundedGaussian,
    FactorisedPrior,
    Gaussian,
    Laplace,
    MedianFactorisedPrior,
    check_tables,
)
from lvc_zoo.entropy.tables import TOTAL, ScaleTables
from lvc_zoo.errors import WeightsError
from tests.gradients import assert_gradients_reach_all

SCALES = [0.02, 0.11, 0.5, 1.0, 3.7, 64.0]


def grid():
    residual = torch.cat([torch.linspace(-12, 12, 97), torch.tensor([100.0, -300.0])])
    return residual.expand(len(SCALES), -1), torch.tensor(SCALES)[:, None].expand(-1, len(residual))


@pytest.mark.parametrize(
    ("family", "reference"), [(Gaussian, torch.distributions.Normal), (Laplace, torch.distributions.Laplace)]
)
def test_bits_match_torch_distributions(family, reference):
    residual, scale = grid()
    law = reference(torch.zeros((), dtype=torch.float64), scale.double())
    # by symmetry on the negative side, where the difference of two small numbers keeps its digits
    magnitude = residual.double().abs()
    probability = law.cdf(0.5 - magnitude) - law.cdf(-0.5 - magnitude)
    expected = -torch.log2(probability + 1e-5).clamp(max=0)
    bits = family(torch.zeros(()), scale, ScaleTables("gaussian", 4)).bits(residual)
    assert bits.dtype == torch.float32
    torch.testing.assert_close(bits.double(), expected, rtol=1e-3, atol=1e-4)
    assert bool((bits >= 0).all())
    assert bits.max().item() <= -math.log2(1e-5) + 1e-4


def test_bounded_gaussian_bits_match_torch_distribution():
    residual, scale = grid()
    law = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), scale.double().clamp(min=0.11))
    magnitude = residual.double().abs()
    probability = law.cdf(0.5 - magnitude) - law.cdf(-0.5 - magnitude)
    bits = BoundedGaussian(torch.zeros(()), scale, ScaleTables("gaussian", 4)).bits(residual)
    torch.testing.assert_close(bits.double(), -torch.log2(probability.clamp(min=1e-9)), rtol=1e-3, atol=1e-4)


def test_bounded_gaussian_scale_below_bound_can_grow():
    scale = torch.tensor([0.01, -1.0], requires_grad=True)
    BoundedGaussian(torch.zeros(()), scale, ScaleTables("gaussian", 4)).bits(torch.tensor([0.8, 0.8])).sum().backward()
    assert bool((scale.grad < 0).all())


@pytest.mark.parametrize("family", [BoundedGaussian, Gaussian, Laplace])
def test_bits_have_finite_gradients_for_any_scale(family):
    residual = torch.tensor([0.0, 0.5, -0.5, 3.0, 1e4]).repeat(6).requires_grad_()
    scale = torch.tensor([-1.0, 0.0, 1e-8, 0.3, 40.0, 1e12]).repeat_interleave(5).requires_grad_()
    family(torch.zeros(()), scale, ScaleTables("gaussian", 4)).bits(residual).sum().backward()
    assert bool(residual.grad.isfinite().all() and scale.grad.isfinite().all())


@pytest.mark.parametrize("family", [BoundedGaussian, Gaussian, Laplace])
def test_bits_under_autocast_stay_in_float32(family):
    residual, scale = grid()
    distribution = family(torch.zeros(()), scale, ScaleTables("gaussian", 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(distribution.bits(residual), distribution.bits(residual.clone()))
        assert distribution.bits(residual).dtype == torch.float32


def prior(seed=0):
    torch.manual_seed(seed)
    prior = FactorisedPrior(3, max_bound=15)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return prior


def cdf_by_hand(prior, channel, value):
    """f4(f3(f2(f1(z)))) through a sigmoid, in Python floats (reference sheet, section 2.1)."""
    parameters = {name: p[0, channel, 0, 0].item() for name, p in prior.named_parameters()}
    for i in range(4):
        value = value * math.log1p(math.exp(parameters[f"layers.{i}.h"])) + parameters[f"layers.{i}.b"]
        if i < 3:
            value += math.tanh(value) * math.tanh(parameters[f"layers.{i}.a"])
    return 1 / (1 + math.exp(-value))


def test_factorised_cdf_and_bits_match_formula():
    density = prior()
    values = torch.tensor([-5.0, -1.0, 0.0, 0.25, 2.0]).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    bits = density.distribution(values.shape).bits(values)
    for channel in range(3):
        for i, value in enumerate(values[0, 0, 0].tolist()):
            expected = cdf_by_hand(density, channel, value)
            assert density.cdf(values)[0, channel, 0, i].item() == pytest.approx(expected, abs=1e-6)
            probability = cdf_by_hand(density, channel, value + 0.5) - cdf_by_hand(density, channel, value - 0.5)
            assert bits[0, channel, 0, i].item() == pytest.approx(-math.log2(probability + 1e-5), rel=1e-3)


def test_factorised_tables_follow_formula():
    density = prior().eval()
    for channel in range(3):
        bound = int(density.tables.bounds[channel])
        edges = [cdf_by_hand(density, channel, s - 0.5) for s in range(-bound, bound + 2)]
        expected = [TOTAL * (b - a) for a, b in pairwise(edges)]
        counts = density.tables.counts[channel, : 2 * bound + 1].tolist()
        assert counts == pytest.approx(expected, abs=2 * bound + 4)


def test_factorised_index_is_channel():
    index = prior().distribution((2, 3, 2, 2)).table_index()
    assert index.dtype == torch.int32
    assert index.shape == (2, 3, 2, 2)
    assert [sorted(set(index[:, c].flatten().tolist())) for c in range(3)] == [[0], [1], [2]]


def test_factorised_gradients_reach_every_parameter():
    density = prior()
    assert_gradients_reach_all(density, density.distribution((2, 3, 4, 4)).bits(torch.randn(2, 3, 4, 4) * 3))


def median_prior():
    torch.manual_seed(0)
    density = MedianFactorisedPrior(3, max_bound=15)
    with torch.no_grad():
        for parameter in density.layers.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
        density.quantiles += torch.randn_like(density.quantiles)
    return density


def cdf_of_median_prior_by_hand(density, channel, value):
    """The five layers of the fact sheet on TCM's intra codec, section 2, in Python floats."""
    parameters = {name: p[channel].tolist() for name, p in density.layers.named_parameters()}
    u = [value]
    for i in range(5):
        matrix, bias = parameters[f"{i}.matrix"], parameters[f"{i}.bias"]
        u = [
            sum(math.log1p(math.exp(m)) * v for m, v in zip(row, u, strict=True)) + b[0]
            for row, b in zip(matrix, bias, strict=True)
        ]
        if i < 4:
            factor = parameters[f"{i}.factor"]
            u = [v + math.tanh(a[0]) * math.tanh(v) for v, a in zip(u, factor, strict=True)]
    return 1 / (1 + math.exp(-u[0]))


def test_median_prior_bits_and_tables_match_formula():
    density = median_prior().eval()
    residuals = torch.tensor([-9.0, -1.0, 0.0, 0.25, 3.0]).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    distribution = density.distribution(residuals.shape)
    for channel in range(3):
        median = density.quantiles[channel, 0, 1].item()
        assert distribution.mean[0, channel].item() == median

        def mass(residual, channel=channel, median=median):
            low, high = residual - 0.5 + median, residual + 0.5 + median
            return cdf_of_median_prior_by_hand(density, channel, high) - cdf_of_median_prior_by_hand(
                density, channel, low
            )

        bits = distribution.bits(residuals)[0, channel, 0].tolist()
        assert bits == pytest.approx([-math.log2(max(mass(r), 1e-9)) for r in residuals[0, 0, 0].tolist()], rel=1e-3)
        bound = int(density.tables.bounds[channel])
        counts = density.tables.counts[channel, : 2 * bound + 1].tolist()
        assert counts == pytest.approx([TOTAL * mass(s) for s in range(-bound, bound + 1)], abs=2 * bound + 4)


def test_median_prior_symbols_count_from_the_median():
    density = median_prior().eval()
    z, shape = 4 * torch.randn(1, 3, 4, 5), (1, 3, 4, 5)
    writer, models = SymbolWriter(rans.ModelCache()), rans.ModelCache()
    with torch.no_grad():
        z_hat = writer.code(z, density.distribution(shape), name="z")
        payload, checksum = writer.finish()
        read = SymbolReader(payload, checksum, models).code(None, density.distribution(shape), name="z")
    assert torch.equal(read, z_hat)
    assert bool(((z_hat - z).abs() <= 0.5 + 1e-6).all())
    symbols = z_hat - density.quantiles[:, 0, 1].detach().view(1, 3, 1, 1)
    torch.testing.assert_close(symbols, symbols.round(), rtol=0, atol=1e-6)


def test_median_prior_gradients_reach_every_parameter():
    density = median_prior()
    assert_gradients_reach_all(density, density.distribution((2, 3, 4, 4)).bits(torch.randn(2, 3, 4, 4) * 3))


def test_median_prior_quantiles_follow_the_density():
    density = median_prior()
    density.layers.requires_grad_(False)
    optimiser = torch.optim.Adam([density.quantiles], lr=1.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.98)
    residual = torch.randn(2, 3, 4, 4)
    for _ in range(400):
        optimiser.zero_grad()
        density.distribution(residual.shape).bits(residual).sum().backward()
        optimiser.step()
        schedule.step()
    for channel in range(3):
        median = density.quantiles[channel, 0, 1].item()
        assert cdf_of_median_prior_by_hand(density, channel, median) == pytest.approx(0.5, abs=0.02)


def test_new_prior_refuses_to_code_until_eval():
    codec = torch.nn.ModuleDict({"hyper_prior": FactorisedPrior(2)})
    with pytest.raises(WeightsError, match=r"tables of hyper_prior .* other parameters .* call .eval\(\)"):
        check_tables(codec)
    check_tables(codec.eval())


def test_training_step_makes_tables_stale_and_eval_renews_them():
    codec = torch.nn.Sequential(prior()).eval()
    before = codec[0].tables.counts.clone()
    codec.train()
    check_tables(codec)
    with torch.no_grad():
        codec[0].layers[0].b += 0.5
    assert torch.equal(codec[0].tables.counts, before)
    with pytest.raises(WeightsError, match="tables of 0 "):
        check_tables(codec)
    codec.eval()
    check_tables(codec)
    assert not torch.equal(codec[0].tables.counts, before)


def test_loading_keeps_the_tables_that_were_saved():
    """They may come from a machine whose floats differ, and the other side codes with them."""
    saved = prior(1).eval().state_dict()
    saved["tables.counts"] = saved["tables.counts"].clone()
    saved["tables.counts"][0, 3:5] += torch.tensor([1, -1], dtype=torch.int32)
    loaded = prior(2)
    loaded.load_state_dict(saved)
    loaded.eval()
    check_tables(loaded)
    assert torch.equal(loaded.tables.counts, saved["tables.counts"])


def test_loading_stale_tables_is_found_out():
    state = prior().eval().state_dict()
    state["layers.2.h"] = state["layers.2.h"] + 1e-3
    loaded = prior(2)
    loaded.load_state_dict(state)
    with pytest.raises(WeightsError):
        check_tables(loaded)


def test_parameter_digest_is_function_of_every_parameter():
    density = prior()
    digests = {bytes(density.parameter_digest().tolist())}
    for name, _ in list(density.named_parameters()):
        changed = copy.deepcopy(density)
        with torch.no_grad():
            changed.get_parameter(name)[0, 1] += 1e-6
        digests.add(bytes(changed.parameter_digest().tolist()))
    assert len(digests) == 1 + len(list(density.parameters()))
    assert torch.equal(density.parameter_digest(), copy.deepcopy(density).parameter_digest())
