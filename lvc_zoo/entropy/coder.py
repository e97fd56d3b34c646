"""The three coders. Each turns a latent into its decoded value; on the way it estimates, writes or reads bits."""

import binascii
import hashlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..blocks.precision import at_least_float32
from ..errors import BitstreamError, DesyncError
from . import rans
from .distributions import Distribution


class LatentCoder(Protocol):
    """One method, one frame's life."""

    def code(self, y: Tensor | None, distribution: Distribution, *, name: str) -> Tensor:
        """Decoded value `round(y - mean) + mean` of the latent; `y` is None exactly where a decoder lacks it."""


class Noise(NamedTuple):
    """Names the uniform noise of a training step: a function of the place, never of a generator's state.

    Attributes:
        seed: of the run.
        step: optimiser step.
        sample: index of the batch's first sample in the global batch.
        poc: display index of the frame.
    """

    seed: int
    step: int
    sample: int
    poc: int

    def draw(self, like: Tensor, name: str) -> Tensor:
        """Uniform noise in [-1/2, 1/2] of the shape of `like (B, ...)`, one stream per sample."""
        rows = [self._row(like[i], self.sample + i, name) for i in range(like.shape[0])]
        return torch.stack(rows)

    def _row(self, like: Tensor, sample: int, name: str) -> Tensor:
        place = f"{self.seed}/{self.step}/{sample}/{self.poc}/{name}".encode()
        generator = torch.Generator(like.device).manual_seed(int.from_bytes(hashlib.sha256(place).digest()[:7], "big"))
        return torch.empty(like.shape, device=like.device).uniform_(-0.5, 0.5, generator=generator)


class RateEstimator:
    """Estimates bits and lets gradients pass: rounding is straight-through, its rate sees noise while training.

    Args:
        noise: the frame's noise; None rates the rounded residual, as evaluation does.

    Attributes:
        bits: estimated bits by latent name, each `(B,)`.
    """

    def __init__(self, noise: Noise | None = None):
        self.noise = noise
        self.bits: dict[str, Tensor] = {}

    def code(self, y: Tensor | None, distribution: Distribution, *, name: str) -> Tensor:
        """See `LatentCoder`."""
        if y is None:
            raise ValueError(f"latent {name} is missing: only a SymbolReader works without the picture")
        if name in self.bits:
            raise ValueError(f"latent name {name!r} came twice in one frame; names must be unique")
        residual = at_least_float32(y) - distribution.mean
        rounded = residual + (torch.round(residual) - residual).detach()
        rated = rounded if self.noise is None else residual + self.noise.draw(residual, name)
        self.bits[name] = distribution.bits(rated).flatten(1).sum(dim=1)
        return rounded + distribution.mean


class _Checksum:
    """CRC-16 over the table indices and symbols of a frame, in coding order."""

    def __init__(self) -> None:
        self.value = 0xFFFF

    def add(self, index: "rans.IntArray", symbols: "rans.IntArray") -> None:
        self.value = binascii.crc_hqx(index.astype("<i2").tobytes(), self.value)
        self.value = binascii.crc_hqx(symbols.astype("<i4").tobytes(), self.value)


Log = Callable[[str, "rans.IntArray", "rans.IntArray", Tensor], None]
"""Called with a latent's name, table indices, symbols and decoded value, for tests and analysis."""


class SymbolWriter:
    """Collects the symbols of one frame, batch size 1, and turns them into bytes.

    Args:
        models: entropy models, shared over the stream.
        log: see `Log`.

    Attributes:
        bits: ideal code length under the integer tables by latent name, in bits.
    """

    def __init__(self, models: rans.ModelCache, log: Log | None = None):
        self.models = models
        self.log = log
        self.bits: dict[str, float] = {}
        self._blocks: list[rans.Block] = []
        self._checksum = _Checksum()

    def code(self, y: Tensor | None, distribution: Distribution, *, name: str) -> Tensor:
        """See `LatentCoder`."""
        if y is None:
            raise ValueError(f"latent {name} is missing: only a SymbolReader works without the picture")
        if name in self.bits:
            raise ValueError(f"latent name {name!r} came twice in one frame; names must be unique")
        rounded = torch.round(y - distribution.mean)
        largest = float(rounded.abs().max())
        if not largest < rans.LARGEST_SYMBOL:
            raise ValueError(
                f"latent {name} reaches {largest:.3g}, a bitstream holds magnitudes below {rans.LARGEST_SYMBOL}; "
                "the weights are broken or the input is not in [0, 1]"
            )
        symbols, index = rounded.to(torch.int32), distribution.table_index()
        self.bits[name] = float(distribution.tables.ideal_bits(index, symbols).sum())
        block = rans.Block(distribution.tables, rans.as_array(index), rans.as_array(symbols))
        self._blocks.append(block)
        self._checksum.add(block.index, block.symbols)
        y_hat = symbols.float() + distribution.mean
        if self.log:
            self.log(name, block.index, block.symbols, y_hat)
        return y_hat

    def finish(self) -> tuple[bytes, int]:
        """The frame's payload, and the CRC-16 of its table indices and symbols."""
        return rans.encode(self._blocks, self.models), self._checksum.value


class SymbolReader:
    """Reads the symbols of one frame.

    Args:
        payload: what `SymbolWriter.finish` gave.
        checksum: the CRC-16 that came with it.
        models: entropy models, shared over the stream.
        log: see `Log`.
    """

    def __init__(self, payload: bytes, checksum: int, models: rans.ModelCache, log: Log | None = None):
        self.log = log
        self._decoder = rans.Decoder(payload, models)
        self._blocks: dict[str, rans.Block] = {}
        self._expected = checksum
        self._checksum = _Checksum()

    def code(self, y: Tensor | None, distribution: Distribution, *, name: str) -> Tensor:
        """See `LatentCoder`; `y` must be None."""
        if y is not None:
            raise ValueError(f"latent {name} was given to a decoder; pass x=None to the frame function")
        index = rans.as_array(distribution.table_index())
        try:
            symbols = self._decoder.decode(distribution.tables, index)
        except BitstreamError as error:
            raise DesyncError(f"latent {name} does not decode ({error}): {DESYNC_HINT}") from error
        self._blocks[name] = rans.Block(distribution.tables, index, symbols)
        self._checksum.add(index, symbols)
        device = distribution.tables.counts.device
        y_hat = torch.from_numpy(symbols).to(device).reshape(distribution.shape).float() + distribution.mean
        if self.log:
            self.log(name, index, symbols, y_hat)
        return y_hat

    @property
    def bits(self) -> dict[str, float]:
        """Ideal code length of what was read so far, by latent name, in bits; counted only when asked for."""
        return {name: _ideal_bits(block) for name, block in self._blocks.items()}

    def finish(self) -> None:
        """Check that the reader saw what the writer wrote.

        Raises:
            DesyncError: where table indices or symbols differ.
        """
        if self._checksum.value != self._expected:
            raise DesyncError(f"decoded symbols differ from the encoder's: {DESYNC_HINT}")


def _ideal_bits(block: rans.Block) -> float:
    device = block.tables.counts.device
    index, symbols = (torch.from_numpy(x).to(device) for x in (block.index, block.symbols))
    return float(block.tables.ideal_bits(index, symbols).sum())


DESYNC_HINT = "the decoder has drifted (other weights, or other hardware or software than the encoder's)"
