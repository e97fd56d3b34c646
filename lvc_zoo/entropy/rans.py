"""rANS through `constriction`: symbols grouped by table row, each group coded by one lookup-based model.

rANS is a stack, so a writer keeps a frame's symbols and encodes them in reverse at its end.
"""

from typing import NamedTuple, TypeAlias

import constriction
import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..errors import BitstreamError
from .tables import ESCAPE_CLASSES, Tables

IntArray: TypeAlias = npt.NDArray[np.int32]
LARGEST_SYMBOL = 1 << (ESCAPE_CLASSES - 2)
_HALF_BITS = 12
"""A model of constriction has 24-bit precision; the bits of an escape are coded in halves well below that."""


class Block(NamedTuple):
    """The symbols of one latent: flat int32 arrays of table rows and values."""

    tables: Tables
    index: IntArray
    symbols: IntArray


class ModelCache:
    """Categorical models of the table rows in use, made on first use and kept for one stream."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[Tables, IntArray, IntArray, dict[int, object]]] = {}

    def bounds(self, tables: Tables) -> IntArray:
        """The bound of every row."""
        return self._of(tables)[2]

    def model(self, tables: Tables, row: int) -> object:
        """The model of one row."""
        _, counts, bounds, models = self._of(tables)
        if row not in models:
            exact = counts[row, : 2 * bounds[row] + 2].astype(np.float32)
            models[row] = constriction.stream.model.Categorical(exact, perfect=False, lazy=False)
        return models[row]

    def _of(self, tables: Tables) -> tuple[Tables, IntArray, IntArray, dict[int, object]]:
        # the entry holds the tables themselves, so that their id is not given to others
        if id(tables) not in self._rows:
            self._rows[id(tables)] = (tables, tables.counts.cpu().numpy(), tables.bounds.cpu().numpy(), {})
        return self._rows[id(tables)]


def as_array(x: Tensor) -> IntArray:
    """A flat int32 array of the values of `x`."""
    return x.detach().cpu().contiguous().numpy().astype(np.int32, copy=False).ravel()


def encode(blocks: list[Block], models: ModelCache) -> bytes:
    """Bytes from which `Decoder` reads the blocks in the same order."""
    coder = constriction.stream.stack.AnsCoder()
    for block in reversed(blocks):
        order, rows, starts = _groups(block.index)
        bound = models.bounds(block.tables)[block.index[order]]
        symbols = block.symbols[order]
        escaped = np.abs(symbols) > bound
        _encode_escapes(coder, symbols[escaped], bound[escaped])
        codes = np.where(escaped, 2 * bound + 1, symbols + bound).astype(np.int32)
        for row, start, end in zip(rows[::-1], starts[-2::-1], starts[:0:-1], strict=True):
            coder.encode_reverse(codes[start:end], models.model(block.tables, int(row)))
    return coder.get_compressed().astype("<u4").tobytes()


class Decoder:
    """Reads blocks from the bytes of `encode`.

    Args:
        payload: a multiple of four bytes.
        models: entropy models, shared over the stream.

    Raises:
        BitstreamError: where the payload cannot come from `encode`.
    """

    def __init__(self, payload: bytes, models: ModelCache):
        if len(payload) % 4:
            raise BitstreamError(f"an entropy-coded payload has {len(payload)} bytes, expected a multiple of 4")
        words = np.frombuffer(payload, dtype="<u4").astype(np.uint32)
        try:
            self._coder = constriction.stream.stack.AnsCoder(words)
        except ValueError as error:
            raise BitstreamError(f"the payload is not an rANS stream ({error})") from error
        self._models = models

    def decode(self, tables: Tables, index: IntArray) -> IntArray:
        """The next block's symbols, int32, given their table rows."""
        order, rows, starts = _groups(index)
        codes: IntArray = np.empty(len(index), dtype=np.int32)
        try:
            for row, start, end in zip(rows, starts[:-1], starts[1:], strict=True):
                codes[start:end] = self._coder.decode(self._models.model(tables, int(row)), int(end - start))
            bound = self._models.bounds(tables)[index[order]]
            escaped = codes > 2 * bound
            symbols = codes - bound
            symbols[escaped] = self._decode_escapes(bound[escaped])
        except (ValueError, AssertionError) as error:
            raise BitstreamError(f"the payload ends too early or is damaged ({error})") from error
        result = np.empty_like(symbols)
        result[order] = symbols
        return result

    def _decode_escapes(self, bound: IntArray) -> IntArray:
        if not len(bound):
            return bound
        lengths = self._coder.decode(constriction.stream.model.Uniform(ESCAPE_CLASSES), len(bound))
        low = self._decode_bits(np.minimum(lengths, _HALF_BITS))
        high = self._decode_bits(np.maximum(lengths - _HALF_BITS, 0))
        beyond = (1 << lengths) + (high << _HALF_BITS) + low - 1
        magnitude = bound + 1 + beyond // 2
        return np.where(beyond % 2 == 1, -magnitude, magnitude).astype(np.int32)

    def _decode_bits(self, lengths: IntArray) -> IntArray:
        values: IntArray = np.zeros(len(lengths), dtype=np.int32)
        some = lengths > 0
        if some.any():
            values[some] = self._coder.decode(constriction.stream.model.Uniform(), _sizes(lengths[some]))
        return values


def _groups(index: IntArray) -> tuple[npt.NDArray[np.intp], IntArray, npt.NDArray[np.intp]]:
    """A stable order by table row, the rows in use, and where each one's symbols start (with the end appended)."""
    order = np.argsort(index, kind="stable")
    rows, first = np.unique(index[order], return_index=True)
    return order, rows, np.append(first, len(index))


def _encode_escapes(coder: "constriction.stream.stack.AnsCoder", symbols: IntArray, bound: IntArray) -> None:
    """Excess magnitude and sign as one number: its bit length, then the bits below the leading one."""
    if not len(symbols):
        return
    beyond = 2 * (np.abs(symbols) - bound - 1) + (symbols < 0) + 1
    lengths = (np.frexp(beyond.astype(np.float64))[1] - 1).astype(np.int32)
    rest = (beyond - (1 << lengths)).astype(np.int32)
    _encode_bits(coder, rest >> _HALF_BITS, np.maximum(lengths - _HALF_BITS, 0))
    _encode_bits(coder, rest & ((1 << _HALF_BITS) - 1), np.minimum(lengths, _HALF_BITS))
    coder.encode_reverse(lengths, constriction.stream.model.Uniform(ESCAPE_CLASSES))


def _encode_bits(coder: "constriction.stream.stack.AnsCoder", values: IntArray, lengths: IntArray) -> None:
    some = lengths > 0
    if some.any():
        coder.encode_reverse(values[some], constriction.stream.model.Uniform(), _sizes(lengths[some]))


def _sizes(lengths: IntArray) -> IntArray:
    return (1 << lengths).astype(np.int32)
