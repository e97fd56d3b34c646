"""`VideoCodec`: intra and inter network and a structure; users load it, call it, compress and decompress with it."""

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..blocks.padding import PadMode, crop_to_size, pad_to_multiple
from ..entropy import rans
from ..entropy.coder import Log, Noise, RateEstimator, SymbolReader, SymbolWriter
from ..entropy.distributions import FactorisedPrior, check_tables
from ..entropy.tables import table_digest
from ..errors import BitstreamError, DesyncError
from ..gop import FramePlan, FrameType, GopStructure
from ..hub import state_digest
from .container import DEVICES, Header, Packet, StreamReader, StreamWriter, coded_frames
from .numeric import coding_mode
from .picture import CodedFrame, FrameNetwork
from .pretrained import Pretrained
from .reader import FrameReader, TensorReader
from .sequence import code_sequence

PARTS = ("motion", "frame", "hyper")
"""Parts of the bits: motion latent, picture latent, hyper latents of both. Latent names start with their part."""
MAX_Q = 63
DEFAULT_Q = 32
"""The q that every entry point takes unless told otherwise; the only one of a codec for a single rate."""


class CodecOutput(NamedTuple):
    """Result of an estimate, `codec(frames, q)`.

    Attributes:
        x_hat: decoded frames, the shape of the input, in [0, 1].
        bits: estimated bits by part ("motion", "frame", "hyper"), each `(B, T)` in display order.
        bpp: estimated bits per pixel, `(B,)`; container bytes not counted.
    """

    x_hat: Tensor
    bits: dict[str, Tensor]
    bpp: Tensor


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """What one frame cost in the file.

    Attributes:
        poc: display index.
        frame_type: "I", "P" or "B".
        layer: temporal layer.
        payload_bytes: entropy-coded bytes.
        framing_bytes: everything else of the packet.
        bits: ideal code length by part, in bits.
    """

    poc: int
    frame_type: str
    layer: int
    payload_bytes: int
    framing_bytes: int
    bits: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EncodedVideo:
    """What `VideoCodec.encode` wrote.

    Attributes:
        size_bytes: of the whole file.
        num_frames: number of frames.
        num_pixels: width * height of one frame.
        frames: one record a frame, in coding order.
    """

    size_bytes: int
    num_frames: int
    num_pixels: int
    frames: list[FrameRecord]

    @property
    def bpp(self) -> float:
        """Bits per pixel of the whole file."""
        return 8 * self.size_bytes / (self.num_frames * self.num_pixels)


class _Frames:
    """A clip in memory as the loop's source: `(B, T, 3, H, W)`, padded."""

    def __init__(self, clip: Tensor, multiple: int, mode: PadMode):
        self._clip = pad_to_multiple(clip.flatten(0, 1), multiple, mode).unflatten(0, clip.shape[:2])
        self.size: tuple[int, int] = (self._clip.shape[-2], self._clip.shape[-1])

    def __call__(self, poc: int) -> Tensor:
        return self._clip[:, poc].contiguous(memory_format=torch.channels_last)


class _Stream:
    """A reader as the loop's source: one GOP and one frame ahead, each frame forgotten once it is coded."""

    def __init__(
        self, reader: FrameReader, structure: GopStructure, multiple: int, mode: PadMode, device: torch.device
    ):
        self._iterator = iter(reader)
        self._structure = structure
        self._multiple = multiple
        self._mode = mode
        self._device = device
        self._expected = (reader.height, reader.width)
        self._waiting: dict[int, Tensor] = {}
        self._next = next(self._iterator, None)
        self.size = (-(-reader.height // multiple) * multiple, -(-reader.width // multiple) * multiple)

    def __call__(self, poc: int) -> Tensor:
        frame = self._waiting.pop(poc).unsqueeze(0).to(self._device)
        return pad_to_multiple(frame, self._multiple, self._mode).contiguous(memory_format=torch.channels_last)

    def units(self) -> Iterator[tuple[list[FramePlan], bool]]:
        """Plans of one answer of the structure, and whether it ends the video."""
        first, taken = 0, 0
        while self._next is not None or taken > first:
            if self._next is not None:
                self._waiting[taken] = self._check(self._next, taken)
                taken += 1
                self._next = next(self._iterator, None)
            plans = self._structure.gop(first, taken - first, final=self._next is None)
            first += len(plans)
            if plans:
                yield plans, self._next is None and first == taken

    def _check(self, frame: Tensor, poc: int) -> Tensor:
        if tuple(frame.shape) != (3, *self._expected):
            raise ValueError(
                f"frame {poc} has shape {tuple(frame.shape)}, expected {(3, *self._expected)} as the reader announced"
            )
        return frame


class _Nothing:
    """The decoder's source."""

    def __init__(self, size: tuple[int, int]):
        self.size = size

    def __call__(self, poc: int) -> None:
        return None


class VideoCodec(Pretrained, nn.Module):
    """A codec: networks by frame type, rate points, and the ways in and out.

    Args:
        config: the frozen dataclass that describes the networks.
        lambdas: rate-distortion weight of each anchor, lowest rate first.
        intra: network of I frames.
        inter: network of P or B frames; None for an intra codec.
    """

    default_structure: ClassVar[GopStructure]
    frame_types: ClassVar[frozenset[FrameType]]
    pad_multiple: ClassVar[int] = 16
    pad_mode: ClassVar[PadMode] = "replicate"

    def __init__(self, config: Any, *, lambdas: tuple[float, ...], intra: nn.Module, inter: nn.Module | None):
        super().__init__()
        self.config = config
        self.lambdas = lambdas
        self.intra = intra
        self.inter = inter
        self.to(memory_format=torch.channels_last)

    # ---- rate points and networks

    def rate_of(self, q: float | Tensor) -> Tensor:
        """Coordinate on the anchors, `(B,)` float, of rate point `q` (0..63, higher is better; scalar or `(B,)`).

        Raises:
            ValueError: outside 0..63, or, with a single anchor, other than 32.
        """
        q = torch.as_tensor(q, dtype=torch.float32, device=self.device).reshape(-1)
        if bool((q < 0).any() or (q > MAX_Q).any() or q.isnan().any()):
            raise ValueError(f"q is {q.tolist()}, expected 0 (smallest file) to {MAX_Q} (best quality)")
        if len(self.lambdas) == 1 and bool((q != DEFAULT_Q).any()):
            raise ValueError(
                f"q is {q.tolist()}, but {self.variant!r} codes at a single rate, q = {DEFAULT_Q}; leave q out, and "
                "load weights of another lambda to have another rate"
            )
        return q * ((len(self.lambdas) - 1) / MAX_Q)

    def lambda_of(self, q: float) -> float:
        """Rate-distortion weight at rate point `q`, log-linear between the anchors; D summed over RGB in [0, 1]."""
        rate = float(self.rate_of(q)[0])
        below = min(int(rate), max(len(self.lambdas) - 2, 0))
        low, high = self.lambdas[below], self.lambdas[min(below + 1, len(self.lambdas) - 1)]
        return float(low * (high / low) ** (rate - below))

    def network(self, frame_type: FrameType) -> FrameNetwork:
        """The network that codes frames of this type.

        Raises:
            ValueError: for a type that this codec does not code.
        """
        if frame_type not in self.frame_types:
            known = ", ".join(sorted(t.name for t in self.frame_types))
            raise ValueError(
                f"{type(self).__name__} codes {known} frames, not {frame_type.name}; "
                f"use a structure like {self.default_structure}"
            )
        return self.intra if frame_type is FrameType.I else self.inter  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def _structure(self, structure: GopStructure | None) -> GopStructure:
        structure = structure or self.default_structure
        # a short source shows every frame type that the structure can ask for
        for plan in structure.plans(3):
            self.network(plan.frame_type)
        return structure

    # ---- estimates

    def forward(
        self,
        frames: Tensor,
        q: float | Tensor = DEFAULT_Q,
        structure: GopStructure | None = None,
        *,
        noise: Callable[[int], Noise] | None = None,
    ) -> CodecOutput:
        """Code a clip with estimated bits; differentiable.

        Args:
            frames: `(T, 3, H, W)` or `(B, T, 3, H, W)`, RGB in [0, 1], any H, W >= 1.
            q: rate point, 0..63, or one a sample `(B,)`.
            structure: None is the codec's own.
            noise: from POC to the noise that stands for rounding in the rate; None rounds.

        Returns:
            Decoded frames, bits by part, bits per pixel.

        Raises:
            ValueError: for a wrong shape, dtype, range or q.
        """
        clip = self._check_clip(frames)
        batch, num_frames, _, height, width = clip.shape
        rate = self.rate_of(q).expand(batch)
        source = _Frames(clip.to(self.device), self.pad_multiple, self.pad_mode)

        def coder_for(plan: FramePlan) -> RateEstimator:
            return RateEstimator(noise(plan.poc) if noise else None)

        x_hat: list[Tensor] = [clip] * num_frames
        bits: dict[str, list[Tensor]] = {part: [rate.new_zeros(batch)] * num_frames for part in PARTS}
        plans = self._structure(structure).plans(num_frames)
        for frame in code_sequence(self, source, plans, coder_for, rate):
            x_hat[frame.plan.poc] = crop_to_size(frame.x_hat, (height, width))
            for part, value in bits_by_part(frame).items():
                bits[part][frame.plan.poc] = value
        stacked = {part: torch.stack(values, dim=1) for part, values in bits.items()}
        total = torch.stack(list(stacked.values())).sum(dim=(0, 2))
        decoded = torch.stack(x_hat, dim=1)
        return CodecOutput(decoded if frames.dim() == 5 else decoded[0], stacked, total / (num_frames * height * width))

    @staticmethod
    def _check_clip(frames: Tensor) -> Tensor:
        if frames.dim() not in (4, 5) or frames.shape[-3] != 3 or 0 in frames.shape:
            raise ValueError(
                f"frames have shape {tuple(frames.shape)}, expected (T, 3, H, W) or (B, T, 3, H, W), none of them 0"
            )
        if not frames.is_floating_point():
            raise ValueError(
                f"frames are {frames.dtype}, expected floating point in [0, 1]; divide 8-bit values by 255"
            )
        low, high = (float(v) for v in frames.detach().aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"frames range over [{low:.4g}, {high:.4g}], expected [0, 1] (and no NaN); rescale or clamp"
            )
        return (frames if frames.dim() == 5 else frames[None]).float()

    # ---- bytes

    def compress(self, frames: Tensor, q: int = DEFAULT_Q, structure: GopStructure | None = None) -> bytes:
        """The bytes of an `.lvc` stream.

        Args:
            frames: `(T, 3, H, W)`, RGB in [0, 1].
            q: rate point, an integer 0..63.
            structure: None is the codec's own.
        """
        clip = self._check_clip(frames)
        if clip.shape[0] != 1:
            raise ValueError(f"a stream holds one video, got a batch of {clip.shape[0]}; compress them one by one")
        file = io.BytesIO()
        for _ in self.encode_frames(TensorReader(clip[0]), file, q, structure):
            pass
        return file.getvalue()

    def decompress(self, data: bytes) -> Tensor:
        """Decoded frames `(T, 3, H, W)` in [0, 1] of a stream; see `decode`."""
        return torch.stack(list(self.decode(io.BytesIO(data))))

    def encode(
        self,
        reader: FrameReader,
        path: str | os.PathLike[str],
        q: int = DEFAULT_Q,
        structure: GopStructure | None = None,
        *,
        progress: Callable[[FrameRecord], None] | None = None,
    ) -> EncodedVideo:
        """Encode a video into a file, holding no more than the DPB and one GOP of source.

        Args:
            reader: frames one by one, with their size, rate and colour; see `lvc_zoo.data.open_video`.
            path: the file appears under this name when it is complete.
            q: rate point, an integer 0..63.
            structure: None is the codec's own.
            progress: called after each frame.

        Returns:
            Sizes, by frame.

        Raises:
            ValueError: for an empty reader or a wrong q; nothing is left behind.
        """
        records = []
        with atomic_output(Path(path)) as file:
            for _, record in self.encode_frames(reader, file, q, structure):
                records.append(record)
                if progress:
                    progress(record)
        return EncodedVideo(Path(path).stat().st_size, len(records), reader.width * reader.height, records)

    def encode_frames(
        self,
        reader: FrameReader,
        file: BinaryIO,
        q: int = DEFAULT_Q,
        structure: GopStructure | None = None,
        *,
        cache: bool = True,
        log: Log | None = None,
    ) -> Iterator[tuple[CodedFrame, FrameRecord]]:
        """Encode frame by frame into an open binary file; what `encode` and `compress` do.

        Yields:
            Each coded frame (cropped reconstruction, `(1, 3, H, W)`) and its record, in coding order.
        """
        rate = self.rate_of(q)
        if int(q) != q:
            raise ValueError(f"q is {q}, a stream stores whole rate points 0 to {MAX_Q}; round it")
        structure = self._structure(structure)
        check_tables(self)
        source = _Stream(reader, structure, self.pad_multiple, self.pad_mode, self.device)
        writer = StreamWriter(file, self._header(reader, structure))
        models = rans.ModelCache()
        size = (reader.height, reader.width)

        def plans() -> Iterator[FramePlan]:
            for unit, final in source.units():
                if unit[0].frame_type is not FrameType.P:
                    writer.begin_unit(len(unit) if structure.reorder else 0, final=final)
                yield from unit

        frames = code_sequence(self, source, plans(), lambda _: SymbolWriter(models, log), rate, cache=cache)
        while (frame := _next_in_mode(self, frames)) is not None:
            payload, checksum = frame.coder.finish()  # type: ignore[attr-defined]
            packet = Packet(frame.plan.frame_type, int(q), payload, checksum)
            writer.write(packet, frame.plan.poc)
            plan = frame.plan
            bits = bits_by_part(frame)
            record = FrameRecord(plan.poc, plan.frame_type.name, plan.layer, len(payload), packet.framing, bits)
            yield frame._replace(x_hat=crop_to_size(frame.x_hat, size)), record
        writer.close()

    def decode(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        frames: range | None = None,
        *,
        cache: bool = True,
        log: Log | None = None,
    ) -> Iterator[Tensor]:
        """Decode a stream frame by frame, in display order.

        Args:
            source: a path or an open binary file.
            frames: display indices to decode, step 1; only the GOPs that hold them are read. None is all.
            cache: keep features of references; the result does not depend on it.
            log: called with every latent's table indices and symbols.

        Yields:
            Frames `(3, H, W)` in [0, 1], not rounded to 8 bit.

        Raises:
            BitstreamError: for damaged, foreign or truncated bytes, naming the frame.
            DesyncError: for other weights, or a decoder that computes otherwise than the encoder.
            ValueError: for frames that the stream does not hold.
        """
        for _, x_hat in self.decode_frames(source, frames, cache=cache, log=log):
            yield x_hat

    def decode_frames(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        frames: range | None = None,
        *,
        cache: bool = True,
        log: Log | None = None,
    ) -> Iterator[tuple[FramePlan, Tensor]]:
        """As `decode`, yielding each frame's plan beside it."""
        with _opened(source) as file:
            reader = StreamReader(file)
            self.check_header(reader.header)
            check_tables(self)
            coded, wanted = self._coded(reader, frames, cache, log)
            waiting: dict[int, tuple[FramePlan, Tensor]] = {}
            upcoming = wanted.start
            size = (reader.header.height, reader.header.width)
            for frame in coded:
                if frame.plan.poc in wanted:
                    waiting[frame.plan.poc] = (frame.plan, crop_to_size(frame.x_hat, size)[0])
                while upcoming in waiting:
                    yield waiting.pop(upcoming)
                    upcoming += 1
                if upcoming >= wanted.stop:
                    return

    def decode_bits(self, source: str | os.PathLike[str] | BinaryIO) -> Iterator[tuple[FramePlan, dict[str, float]]]:
        """Ideal code length of each frame by part, in bits, in coding order; found by decoding, see `decode`."""
        with _opened(source) as file:
            reader = StreamReader(file)
            self.check_header(reader.header)
            check_tables(self)
            for frame in self._coded(reader, None, cache=True, log=None)[0]:
                yield frame.plan, bits_by_part(frame)

    def _coded(
        self, reader: StreamReader, frames: range | None, cache: bool, log: Log | None
    ) -> tuple[Iterator[CodedFrame], range]:
        """The decoding loop from the right unit on, and which frames to show."""
        header = reader.header
        multiple = self.pad_multiple
        size = (-(-header.height // multiple) * multiple, -(-header.width // multiple) * multiple)
        dpb: dict[int, Any] = {}
        first, wanted = 0, range(1 << 62)
        models = rans.ModelCache()
        if frames is not None:
            index = reader.index()
            total = index[-1].first + index[-1].frames
            if frames.step != 1 or not 0 <= frames.start < frames.stop <= total:
                raise ValueError(f"frames {frames} are not in the stream, which holds 0 to {total - 1}; use step 1")
            wanted = frames
            entry = next(e for e in reversed(index) if e.first <= frames.start)
            opening = index[entry.opening]
            if opening is not entry:
                reader.seek(opening)
                for _ in self._loop(reader, opening.first, size, dpb, models, cache, log, count=1):
                    pass
            reader.seek(entry)
            first = entry.first
        return self._loop(reader, first, size, dpb, models, cache, log), wanted

    def _loop(
        self,
        reader: StreamReader,
        first: int,
        size: tuple[int, int],
        dpb: dict[int, Any],
        models: rans.ModelCache,
        cache: bool,
        log: Log | None,
        count: int | None = None,
    ) -> Iterator[CodedFrame]:
        """Decode packets from a unit on, checking each frame's symbols."""
        packets: dict[int, Packet] = {}

        def plans() -> Iterator[FramePlan]:
            for plan, packet in islice(coded_frames(reader, first), count):
                packets[plan.poc] = packet
                yield plan

        def coder_for(plan: FramePlan) -> SymbolReader:
            packet = packets[plan.poc]
            return SymbolReader(packet.payload, packet.symbols_crc, models, log)

        def rate(plan: FramePlan) -> Tensor:
            return self.rate_of(packets[plan.poc].q)

        coded = code_sequence(self, _Nothing(size), plans(), coder_for, rate, dpb=dpb, cache=cache)
        while True:
            try:
                frame = _next_in_mode(self, coded)
                if frame is None:
                    return
                frame.coder.finish()  # type: ignore[attr-defined]
            except DesyncError as error:
                poc = next(reversed(packets))
                raise DesyncError(f"frame {poc}: {error}", poc=poc) from error
            del packets[frame.plan.poc]
            yield frame

    def _header(self, reader: FrameReader, structure: GopStructure) -> Header:
        color = reader.color
        kind = self.device.type
        return Header(
            model=self.variant,
            origin=self.origin,
            weights_digest=self.weights_digest(),
            table_digest=bytes.fromhex(table_digest(self))[:8],
            device=kind if kind in DEVICES else "other",
            width=reader.width,
            height=reader.height,
            frame_rate=Fraction(reader.frame_rate),
            matrix=color.matrix,
            full_range=color.full_range,
            bit_depth=color.bit_depth,
            chroma=color.chroma,
            color_assumed=color.assumed,
            structure=structure,
        )

    def weights_digest(self) -> bytes:
        """First 8 bytes of the SHA-256 of all weights and tables."""
        return bytes.fromhex(state_digest(self.state_dict()))[:8]

    def check_header(self, header: Header) -> None:
        """Compare a stream's header with this codec.

        Raises:
            BitstreamError: for another model.
            DesyncError: for other weights or tables.
        """
        if header.model != self.variant:
            raise BitstreamError(
                f"the stream was made by {header.model!r}, this codec is {self.variant!r}; load that one, "
                "or decode with `lvc-zoo decode`, which finds it"
            )
        own, tables = self.weights_digest(), bytes.fromhex(table_digest(self))[:8]
        if (header.weights_digest, header.table_digest) != (own, tables):
            raise DesyncError(
                f"the stream needs weights {header.weights_digest.hex()} with tables {header.table_digest.hex()}"
                f"{f' from {header.origin}' if header.origin else ''}, this codec has {own.hex()} with {tables.hex()}; "
                "load the weights that the stream was made with"
            )
        kind = self.device.type
        if header.device != kind:
            warnings.warn(
                f"the stream was made on {header.device}, decoding on {kind}: last bits may differ, and the first "
                f"frame where they matter will be refused; decode on {header.device} to be safe",
                stacklevel=2,
            )

    # ---- training and loading

    def rebuild_tables(self) -> None:
        """Renew stale factorised tables, as `eval()` and saving do."""
        for part in self.modules():
            if isinstance(part, FactorisedPrior):
                part.rebuild_tables()


def bits_by_part(frame: CodedFrame) -> dict[str, Any]:
    """A frame's bits by part ("motion", "frame", "hyper"), whatever its coder counts in."""
    bits: dict[str, Any] = {}
    for name, value in frame.coder.bits.items():  # type: ignore[attr-defined]
        part = name.split("/")[0]
        bits[part] = bits[part] + value if part in bits else value
    return bits


def _next_in_mode(codec: VideoCodec, frames: Iterator[CodedFrame]) -> CodedFrame | None:
    """One step of the loop in the numeric mode, which must not leak to the caller between two frames."""
    with coding_mode(codec):
        return next(frames, None)


@contextmanager
def _opened(source: str | os.PathLike[str] | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(source, (str, os.PathLike)):
        with Path(source).open("rb") as file:
            yield file
    else:
        yield source


@contextmanager
def atomic_output(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` only when the body ends well."""
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
