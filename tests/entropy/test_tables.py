import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvc_zoo.entropy.tables import ESCAPE_CLASSES, TOTAL, ScaleTables, Tables, integer_counts, table_digest

FAMILIES = {"gaussian": (0.11, 64.0), "laplace": (0.01, 64.0)}


def mass(family, scale, symbol):
    """Probability of a unit bin in closed form, by the standard library."""

    def cdf(x):
        if family == "gaussian":
            return 0.5 * math.erfc(-x / scale / math.sqrt(2))
        return 0.5 * math.exp(x / scale) if x < 0 else 1 - 0.5 * math.exp(-x / scale)

    symbol = abs(symbol)
    return cdf(-symbol + 0.5) - cdf(-symbol - 0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_scale_tables_counts_sum_to_total_and_miss_no_symbol(family):
    tables = ScaleTables(family, 64, *FAMILIES[family])
    assert tables.counts.shape == (64, 512)
    assert bool((tables.counts.sum(dim=1) == TOTAL).all())
    for counts, bound in zip(tables.counts, tables.bounds.tolist(), strict=True):
        assert bool((counts[: 2 * bound + 2] >= 1).all())
        assert not counts[2 * bound + 2 :].any()
    assert bool((tables.bounds.diff() >= 0).all())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("level", [0, 20, 40, 63])
def test_scale_tables_counts_are_closed_form_probabilities(family, level):
    low, high = FAMILIES[family]
    tables = ScaleTables(family, 64, low, high)
    scale, bound = low * (high / low) ** (level / 63), int(tables.bounds[level])
    expected = [mass(family, scale, symbol) for symbol in range(-bound, bound + 1)]
    expected.append(1 - sum(expected))
    assert tables.counts[level, : 2 * bound + 2].tolist() == pytest.approx(
        [TOTAL * p for p in expected], abs=2 * bound + 4
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_scale_tables_bound_is_smallest_with_tail_below_limit(family):
    low, high = FAMILIES[family]
    tables = ScaleTables(family, 64, low, high)
    for level, bound in enumerate(tables.bounds.tolist()):
        scale = low * (high / low) ** (level / 63)
        if bound < 255:
            assert 1 - sum(mass(family, scale, s) for s in range(-bound, bound + 1)) < 1e-4
        if bound > 1:
            assert 1 - sum(mass(family, scale, s) for s in range(1 - bound, bound)) >= 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_level_of_takes_nearest_scale_in_the_logarithm(family):
    low, high = FAMILIES[family]
    tables = ScaleTables(family, 64, low, high)
    levels = torch.tensor([low * (high / low) ** (i / 63) for i in range(64)], dtype=torch.float64).log()
    torch.manual_seed(0)
    scales = torch.exp(torch.rand(2000, dtype=torch.float64) * 14 - 7)
    nearest = (scales.log()[:, None] - levels).abs().argmin(dim=1)
    index = tables.level_of(scales.float())
    assert index.dtype == torch.int32
    assert index.tolist() == nearest.tolist()


def test_level_of_scale_outside_range_is_first_or_last():
    tables = ScaleTables("gaussian", 8, 0.5, 4.0, 31)
    assert tables.level_of(torch.tensor([-1.0, 0.0, 1e-30, 1e30, float("inf")])).tolist() == [0, 0, 0, 7, 7]


def test_ideal_bits_of_plain_symbol_is_minus_log2_of_its_share():
    tables = ScaleTables("laplace", 4, 0.1, 4.0, 31)
    index = torch.tensor([0, 3, 3], dtype=torch.int32)
    symbols = torch.tensor([0, -2, 5], dtype=torch.int32)
    bounds, counts = tables.bounds.tolist(), tables.counts.tolist()
    expected = [-math.log2(counts[i][s + bounds[i]] / 65536) for i, s in ((0, 0), (3, -2), (3, 5))]
    assert tables.ideal_bits(index, symbols).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("beyond", "sign", "extra_bits"),
    # the excess over the bound and its sign count as one number n = 2 * (excess - 1) + (negative) + 1
    [(1, 1, 0), (1, -1, 1), (2, 1, 1), (2, -1, 2), (100, 1, 7), (100, -1, 7), (1 << 20, 1, 20), (1 << 20, -1, 21)],
)
def test_ideal_bits_of_escape_adds_class_and_plain_bits(beyond, sign, extra_bits):
    tables = ScaleTables("gaussian", 4, 0.11, 4.0, 31)
    bound = int(tables.bounds[1])
    symbol = torch.tensor([sign * (bound + beyond)], dtype=torch.int32)
    escape = int(tables.counts[1, 2 * bound + 1])
    expected = -math.log2(escape / 65536) + math.log2(ESCAPE_CLASSES) + extra_bits
    assert tables.ideal_bits(torch.tensor([1]), symbol).item() == pytest.approx(expected, rel=1e-12)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=600).filter(lambda p: sum(p) > 0))
def test_integer_counts_sum_to_total_and_keep_order(probabilities):
    counts = integer_counts(probabilities)
    assert sum(counts) == TOTAL
    assert min(counts) >= 1
    order = sorted(range(len(counts)), key=lambda i: (probabilities[i], counts[i]))
    assert [counts[i] for i in order] == sorted(counts)


@pytest.mark.parametrize(("levels", "max_bound"), [(0, 5), (5, 0)])
def test_tables_without_rows_or_symbols_raise(levels, max_bound):
    with pytest.raises(ValueError, match=f"got {levels} levels and max_bound {max_bound}, expected both >= 1"):
        Tables(levels, max_bound)


def test_scale_tables_of_unknown_family_raise():
    with pytest.raises(ValueError, match="unknown family 'cauchy', expected one of gaussian, laplace"):
        ScaleTables("cauchy")


def test_table_digest_changes_with_any_count_and_with_names():
    tables = torch.nn.ModuleDict({"a": ScaleTables("gaussian", 4, 0.1, 4.0, 15)})
    before = table_digest(tables)
    assert table_digest(torch.nn.ModuleDict({"b": tables["a"]})) != before
    assert table_digest(torch.nn.ModuleDict({"a": ScaleTables("gaussian", 4, 0.1, 4.0, 15)})) == before
    tables["a"].counts[2, 3] += 1
    assert table_digest(tables) != before
