from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvc_zoo.entropy import rans
from lvc_zoo.entropy.tables import ScaleTables, Tables
from lvc_zoo.errors import BitstreamError

LEVELS = 8
TABLES = [ScaleTables("laplace", LEVELS, 0.05, 8.0, 31), ScaleTables("gaussian", LEVELS, 0.11, 20.0, 63)]
LIMIT = rans.LARGEST_SYMBOL - 1


def block(tables, index, symbols):
    return rans.Block(tables, np.array(index, dtype=np.int32), np.array(symbols, dtype=np.int32))


def decode(payload, blocks):
    decoder = rans.Decoder(payload, rans.ModelCache())
    return [decoder.decode(b.tables, b.index).tolist() for b in blocks]


def random_block(tables, size, seed=0):
    """Symbols of the tables' own laws, a few of them far outside."""
    generator = np.random.default_rng(seed)
    index = generator.integers(0, LEVELS, size)
    scale = 0.05 * (8.0 / 0.05) ** (index / (LEVELS - 1))
    return block(tables, index, np.rint(generator.laplace(0, scale)))


SYMBOLS = st.one_of(
    st.integers(-3, 3), st.integers(-100, 100), st.integers(-LIMIT, LIMIT), st.sampled_from([-LIMIT, LIMIT])
)
PAIRS = st.lists(st.tuples(st.integers(0, LEVELS - 1), SYMBOLS), max_size=40)
BLOCKS = st.lists(st.tuples(st.sampled_from(TABLES), PAIRS), max_size=4)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(BLOCKS)
def test_decoder_gives_back_any_blocks(drawn):
    coded = [block(tables, [i for i, _ in pairs], [s for _, s in pairs]) for tables, pairs in drawn]
    payload = rans.encode(coded, rans.ModelCache())
    assert len(payload) % 4 == 0
    assert decode(payload, coded) == [b.symbols.tolist() for b in coded]


@pytest.mark.parametrize("symbol", [0, 1, -1, 40, -LIMIT, LIMIT])
def test_decoder_gives_back_single_symbol(symbol):
    coded = [block(TABLES[0], [5], [symbol])]
    assert decode(rans.encode(coded, rans.ModelCache()), coded) == [[symbol]]


@pytest.mark.parametrize("tables", TABLES, ids=["laplace", "gaussian"])
@pytest.mark.parametrize("size", [1, 300, 20000])
def test_payload_costs_what_the_tables_say(tables, size):
    coded = [random_block(tables, size, seed) for seed in range(3)]
    ideal = sum(
        float(tables.ideal_bits(torch.from_numpy(b.index), torch.from_numpy(b.symbols)).sum()) / 8 for b in coded
    )
    size_bytes = len(rans.encode(coded, rans.ModelCache()))
    assert ideal - 1 <= size_bytes <= 1.001 * ideal + 8


def test_payload_of_escapes_costs_what_the_tables_say():
    generator = np.random.default_rng(0)
    coded = block(TABLES[0], [4] * 2000, generator.integers(-LIMIT, LIMIT, 2000))
    ideal = float(TABLES[0].ideal_bits(torch.from_numpy(coded.index), torch.from_numpy(coded.symbols)).sum()) / 8
    assert len(rans.encode([coded], rans.ModelCache())) <= 1.001 * ideal + 8


def test_payload_of_fixed_blocks_is_golden():
    """Any change of these bytes breaks every stream that exists."""
    tables = Tables(2, 3)  # counts by hand, so that no rounding of a probability is part of the answer
    tables.bounds.copy_(torch.tensor([1, 3]))
    tables.counts[0, :4] = torch.tensor([5000, 60000, 500, 36])
    tables.counts[1] = torch.tensor([100, 4000, 9000, 40000, 9000, 3000, 400, 36])
    coded = [
        block(tables, [i % 2 for i in range(48)], [(7 * i * i) % 5 - 2 for i in range(48)]),
        block(tables, [0, 1, 1], [-70000, 4, 2]),
    ]
    assert rans.encode(coded, rans.ModelCache()).hex() == GOLDEN


def test_payload_without_symbols_is_empty():
    assert rans.encode([], rans.ModelCache()) == b""
    assert decode(b"", [block(TABLES[0], [], [])]) == [[]]


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_payload_of_odd_length_raises(length):
    with pytest.raises(BitstreamError, match=f"has {length} bytes, expected a multiple of 4"):
        rans.Decoder(bytes(length), rans.ModelCache())


def test_payload_that_ends_in_zeros_raises():
    with pytest.raises(BitstreamError, match="not an rANS stream"):
        rans.Decoder(bytes(8), rans.ModelCache())


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.binary(max_size=64).map(lambda data: data[: len(data) // 4 * 4]))
def test_garbage_payload_raises_or_decodes_within_limits(payload):
    coded = [random_block(tables, 200) for tables in TABLES]
    try:
        decoded = decode(payload, coded)
    except BitstreamError:
        return
    assert max(abs(s) for symbols in decoded for s in symbols) <= 2 * rans.LARGEST_SYMBOL


def test_truncated_or_garbled_payload_raises_or_decodes_to_something_else():
    coded = [random_block(tables, 300) for tables in TABLES]
    payload = rans.encode(coded, rans.ModelCache())
    damaged = [payload[:length] for length in range(0, len(payload), 4)]
    damaged += [payload[:i] + bytes([payload[i] ^ 0x55]) + payload[i + 1 :] for i in range(len(payload))]
    expected = [b.symbols.tolist() for b in coded]
    for data in damaged:
        with suppress(BitstreamError):
            assert decode(data, coded) != expected


def test_model_cache_keeps_tables_of_equal_shape_apart():
    models = rans.ModelCache()
    coded = [random_block(tables, 50) for tables in TABLES]
    both = [rans.encode([b], models) for b in coded]
    assert both == [rans.encode([b], rans.ModelCache()) for b in coded]


GOLDEN = "88edff306931101b92d1e5ff391eff0dbcebfd8b39ecff2834aba6fc1ff1ff6adb230000"
