import pytest
import torch

from lvc_zoo.entropy.coder import Noise, RateEstimator, SymbolReader, SymbolWriter
from lvc_zoo.entropy.distributions import FactorisedPrior, Gaussian, Laplace
from lvc_zoo.entropy.rans import LARGEST_SYMBOL, ModelCache
from lvc_zoo.entropy.tables import ScaleTables
from lvc_zoo.errors import DesyncError

TABLES = ScaleTables("gaussian", 16, 0.11, 16.0, 63)


def distributions():
    """Three latents: Gaussian with means, Laplace, and factorised."""
    torch.manual_seed(0)
    scale = torch.exp(torch.rand(1, 4, 3, 5) * 4 - 2)
    return {
        "frame/0": Gaussian(torch.randn(1, 4, 3, 5), scale, TABLES),
        "motion/0": Laplace(torch.zeros(1, 4, 3, 5), scale, ScaleTables("laplace", 16, 0.05, 8.0, 63)),
        "hyper/frame": FactorisedPrior(4).eval().distribution((1, 4, 2, 2)),
    }


def latents():
    torch.manual_seed(1)
    return {name: torch.randn(d.shape) * 3 for name, d in distributions().items()}


def code_all(coder, given, laws):
    return {name: coder.code(given.get(name), law, name=name) for name, law in laws.items()}


def write(given=None):
    writer, laws = SymbolWriter(ModelCache()), distributions()
    y_hat = code_all(writer, given or latents(), laws)
    return writer, laws, y_hat, *writer.finish()


def test_estimator_writer_and_reader_give_equal_latents():
    _, laws, written, payload, checksum = write()
    reader = SymbolReader(payload, checksum, ModelCache())
    read = code_all(reader, {}, laws)
    reader.finish()
    estimated = code_all(RateEstimator(), latents(), laws)
    for name, y in latents().items():
        expected = torch.round(y - laws[name].mean) + laws[name].mean
        for y_hat in (written[name], read[name], estimated[name].detach()):
            assert torch.equal(y_hat, expected)


def test_writer_bits_are_payload_size():
    writer, _, _, payload, _ = write()
    assert sum(writer.bits.values()) / 8 - 1 <= len(payload) <= sum(writer.bits.values()) / 8 + 8


def test_estimate_without_noise_rates_the_rounded_residual():
    estimator, laws = RateEstimator(), distributions()
    code_all(estimator, latents(), laws)
    for name, y in latents().items():
        bits = laws[name].bits(torch.round(y - laws[name].mean)).sum()
        torch.testing.assert_close(estimator.bits[name], bits[None])


def test_estimator_passes_gradients_straight_through():
    law, y = distributions()["frame/0"], latents()["frame/0"].requires_grad_()
    RateEstimator().code(y, law, name="y").sum().backward()
    assert torch.equal(y.grad, torch.ones_like(y))


def test_estimate_with_noise_rates_the_noisy_residual_but_decodes_the_rounded():
    law, y = distributions()["frame/0"], latents()["frame/0"]
    noise = Noise(seed=3, step=7, sample=0, poc=4)
    estimator = RateEstimator(noise)
    y_hat = estimator.code(y, law, name="y")
    assert torch.equal(y_hat, RateEstimator().code(y, law, name="y"))
    bits = law.bits(y - law.mean + noise.draw(y, "y")).sum()
    torch.testing.assert_close(estimator.bits["y"], bits[None])


def test_noise_is_uniform_and_a_function_of_its_place():
    like, place = torch.zeros(1, 8, 32, 32), {"seed": 1, "step": 2, "sample": 3, "poc": 4}
    draws = [Noise(**place).draw(like, "y")]
    draws += [Noise(**{**place, key: value + 1}).draw(like, "y") for key, value in place.items()]
    draws += [Noise(**place).draw(like, "z")]
    assert torch.equal(draws[0], Noise(**place).draw(like, "y"))
    for i, draw in enumerate(draws):
        assert draw.abs().max().item() <= 0.5
        assert draw.mean().item() == pytest.approx(0, abs=0.02)
        assert draw.var().item() == pytest.approx(1 / 12, rel=0.05)
        assert not any(torch.equal(draw, other) for other in draws[:i])


def test_noise_of_a_batch_is_that_of_its_samples_alone():
    like = torch.zeros(2, 4, 3, 5)
    both = Noise(0, 0, 6, 1).draw(like, "y")
    alone = [Noise(0, 0, sample, 1).draw(like[:1], "y") for sample in (6, 7)]
    assert torch.equal(both, torch.cat(alone))


def test_noise_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    Noise(0, 0, 0, 0).draw(torch.zeros(1, 4), "y")
    assert torch.equal(before, torch.get_rng_state())


def test_estimate_of_a_batch_is_that_of_its_samples_alone():
    law, y = distributions()["motion/0"], torch.randn(2, 4, 3, 5)
    twice = Laplace(law.mean.expand(2, -1, -1, -1), law.scale.expand(2, -1, -1, -1), law.tables)
    together = RateEstimator(Noise(0, 0, 6, 1))
    together.code(y, twice, name="y")
    for i in range(2):
        alone = RateEstimator(Noise(0, 0, 6 + i, 1))
        alone.code(y[i : i + 1], law, name="y")
        torch.testing.assert_close(together.bits["y"][i : i + 1], alone.bits["y"])


@pytest.mark.parametrize("coder", [RateEstimator(), SymbolWriter(ModelCache())], ids=["estimator", "writer"])
def test_latent_name_used_twice_raises(coder):
    law, y = distributions()["frame/0"], latents()["frame/0"]
    coder.code(y, law, name="frame/0")
    with pytest.raises(ValueError, match="'frame/0' came twice in one frame"):
        coder.code(y, law, name="frame/0")


@pytest.mark.parametrize("coder", [RateEstimator(), SymbolWriter(ModelCache())], ids=["estimator", "writer"])
def test_missing_latent_raises(coder):
    with pytest.raises(ValueError, match="latent y is missing: only a SymbolReader"):
        coder.code(None, distributions()["frame/0"], name="y")


def test_reader_given_a_latent_raises():
    _, laws, _, payload, checksum = write()
    with pytest.raises(ValueError, match="latent frame/0 was given to a decoder"):
        SymbolReader(payload, checksum, ModelCache()).code(torch.zeros(1, 4, 3, 5), laws["frame/0"], name="frame/0")


@pytest.mark.parametrize("value", [float(LARGEST_SYMBOL), -float(LARGEST_SYMBOL), float("inf"), float("nan")])
def test_writer_given_a_latent_beyond_limits_raises(value):
    y = latents()["hyper/frame"]
    y[0, 1, 0, 1] = value
    with pytest.raises(ValueError, match=r"latent z reaches .*, a bitstream holds magnitudes below 4194304"):
        SymbolWriter(ModelCache()).code(y, distributions()["hyper/frame"], name="z")


def test_reader_with_other_scales_raises_desync():
    _, laws, _, payload, checksum = write()
    laws["frame/0"] = laws["frame/0"]._replace(scale=laws["frame/0"].scale * 1.5)
    reader = SymbolReader(payload, checksum, ModelCache())
    code_all(reader, {}, laws)  # every symbol decodes, to something else
    with pytest.raises(DesyncError, match="drifted"):
        reader.finish()


def test_reader_with_wrong_checksum_raises_desync():
    _, laws, _, payload, checksum = write()
    reader = SymbolReader(payload, checksum ^ 1, ModelCache())
    code_all(reader, {}, laws)
    with pytest.raises(DesyncError, match="decoded symbols differ from the encoder's"):
        reader.finish()


def test_log_sees_the_same_at_writer_and_reader():
    seen = {"writer": [], "reader": []}

    def log(kind):
        return lambda name, index, symbols, y_hat: seen[kind].append(
            (name, index.tolist(), symbols.tolist(), y_hat.flatten().tolist())
        )

    laws = distributions()
    writer = SymbolWriter(ModelCache(), log("writer"))
    code_all(writer, latents(), laws)
    code_all(SymbolReader(*writer.finish(), ModelCache(), log("reader")), {}, laws)
    assert seen["writer"] == seen["reader"]
    assert [entry[0] for entry in seen["writer"]] == list(laws)


@pytest.mark.parametrize("family", ["gaussian", "laplace"])
def test_estimate_of_latents_that_follow_their_law_is_what_the_writer_spends(family):
    """Nearest scale level, integer counts, escapes and the floor of the estimate together cost less than 1 %."""
    torch.manual_seed(0)
    scale = torch.exp(torch.rand(1, 16, 40, 40) * 4 - 2)
    law = torch.distributions.Normal if family == "gaussian" else torch.distributions.Laplace
    kind, low = (Gaussian, 0.11) if family == "gaussian" else (Laplace, 0.01)
    distribution = kind(torch.zeros_like(scale), scale, ScaleTables(family, 64, low, 64.0))
    y = law(torch.zeros(()), scale).sample()
    estimator, writer = RateEstimator(), SymbolWriter(ModelCache())
    for coder in (estimator, writer):
        coder.code(y, distribution, name="y")
    assert writer.bits["y"] == pytest.approx(estimator.bits["y"].item(), rel=0.01)
