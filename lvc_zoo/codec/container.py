"""The `.lvc` container: header, units of one GOP, packets, and a trailer to seek by. Standard library only.

    header   magic, version, numeric mode, size, frame rate, colour, structure, model, digests, CRC-32
    unit     marker with flags, number of frames (0 = until the next unit), CRC-16; then its packets
    packet   type and q in one byte, length (1 to 3 bytes), CRC-16 of the payload, CRC-16 of the symbols, payload
    trailer  marker, per unit its frames, bytes, where its opening I frame stands and the chain after it, length, CRC-32

The CRC of a unit or packet starts from the chain: the CRC-32 of all bytes before it, beginning with the header's own.
So a stream is refused from the first byte on that does not continue what stands before it, at the latest where its
trailer begins; a packet from another place or another file passes only if all before it is the same in both. The
trailer names the chain after each unit, so that a seek or a parallel worker checks its unit without the ones before.
"""

import binascii
import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, NamedTuple

from ..errors import BitstreamError
from ..gop import FramePlan, FrameType, GopStructure, LowDelay, RandomAccess

MAGIC = b"\x89LVC"
VERSION = 2
TYPES = (FrameType.I, FrameType.P, FrameType.B)
MARKER = 3
"""Stands where a packet has its frame type: a unit or the trailer follows."""
FINAL, END = 1, 63
MAX_PAYLOAD = 4 << 22
DEVICES = ("cpu", "cuda", "mps", "xpu", "other")
MATRICES = ("bt601", "bt709")
CHROMA = ("420", "422", "444")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a decoder must know before the first packet.

    Attributes:
        model: variant name, for example "biecvc-tiny".
        origin: "" for bundled weights, "owner/repo@commit" for others from the Hub.
        weights_digest: first 8 bytes of the SHA-256 of the weights.
        table_digest: first 8 bytes of the SHA-256 of the entropy tables.
        device: kind of device whose arithmetic made the stream.
        width: of the picture before padding.
        height: of the picture before padding.
        frame_rate: frames per second.
        matrix: of the source, "bt601" or "bt709".
        full_range: of the source.
        bit_depth: of the source, 8 or 10.
        chroma: of the source, "420", "422" or "444".
        color_assumed: the source carried no colour tags.
        structure: coding structure.
    """

    model: str
    origin: str
    weights_digest: bytes
    table_digest: bytes
    device: str
    width: int
    height: int
    frame_rate: Fraction
    matrix: str
    full_range: bool
    bit_depth: int
    chroma: str
    color_assumed: bool
    structure: GopStructure

    def __post_init__(self) -> None:
        """Check that every field fits its place."""
        for name, value in (("width", self.width), ("height", self.height)):
            if not 1 <= value < 1 << 16:
                raise ValueError(f"{name} is {value}, a stream holds 1 to {(1 << 16) - 1}")
        if not 0 < self.frame_rate < 1 << 16:
            raise ValueError(f"frame rate is {self.frame_rate}, expected a positive number of frames per second")
        for name, known in (("device", DEVICES), ("matrix", MATRICES), ("chroma", CHROMA), ("bit_depth", (8, 10))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, a stream holds {' or '.join(map(str, known))}")
        for name in ("weights_digest", "table_digest"):
            if len(getattr(self, name)) != 8:
                raise ValueError(f"{name} has {len(getattr(self, name))} bytes, expected 8")

    def to_bytes(self) -> bytes:
        """The header's bytes; the last four are its CRC-32, little-endian."""
        colour = MATRICES.index(self.matrix) | self.full_range << 1 | (self.bit_depth == 10) << 2
        colour |= CHROMA.index(self.chroma) << 3 | self.color_assumed << 5
        random_access = isinstance(self.structure, RandomAccess)
        period = self.structure.intra_period or 0  # type: ignore[attr-defined]
        body = b"".join(
            [
                struct.pack("<BBHHB", VERSION, DEVICES.index(self.device), self.width, self.height, colour),
                varint(self.frame_rate.numerator),
                varint(self.frame_rate.denominator),
                bytes([random_access]),
                varint(period),
                _text(self.model),
                _text(self.origin),
                self.weights_digest,
                self.table_digest,
            ]
        )
        head = MAGIC + varint(len(body)) + body
        return head + struct.pack("<I", zlib.crc32(head))


class Unit(NamedTuple):
    """The start of a unit in the stream.

    Attributes:
        first: POC of its first frame in display order.
        frames: how many frames it holds, 0 = until the next unit.
        final: nothing follows it.
    """

    first: int
    frames: int
    final: bool


class Packet(NamedTuple):
    """One coded frame.

    Attributes:
        frame_type: I, P or B.
        q: rate point, 0..63.
        payload: entropy-coded bytes.
        symbols_crc: CRC-16 of the table indices and symbols.
    """

    frame_type: FrameType
    q: int
    payload: bytes
    symbols_crc: int

    @property
    def framing(self) -> int:
        """Bytes besides the payload."""
        return 5 + len(_packet_length(len(self.payload)))


class IndexEntry(NamedTuple):
    """Where a unit stands.

    Attributes:
        first: POC of its first frame in display order.
        frames: number of frames.
        offset: of its marker, bytes from the start of the file.
        chain: CRC-32 of all bytes before it, see the top of this file.
        opening: index of the unit whose first packet is the I frame that opens this one; its own where it does.
        opening_poc: POC of that I frame.
    """

    first: int
    frames: int
    offset: int
    chain: int
    opening: int
    opening_poc: int


class _WrittenUnit:
    """What the trailer says of a unit."""

    def __init__(self, offset: int, frames: int, back: int):
        self.offset, self.frames, self.back = offset, frames, back
        self.chain = 0


class StreamWriter:
    """Writes a stream packet by packet, each handed on to the system at once.

    Args:
        file: binary, writable; need not seek.
        header: its header.
    """

    def __init__(self, file: BinaryIO, header: Header):
        self._file = file
        self._header = header
        self._units: list[_WrittenUnit] = []
        self._open_ended = False
        self.size_bytes = 0
        data = header.to_bytes()
        self._write(data)
        self._chain: int = struct.unpack("<I", data[-4:])[0]

    def begin_unit(self, frames: int, *, final: bool = False) -> None:
        """Open a unit of `frames` frames (0 = until the next one)."""
        head = bytes([MARKER << 6 | (FINAL if final else 0)]) + varint(frames)
        # a unit of random access leans on the I frame at the start of the unit before
        back = int(bool(self._units) and isinstance(self._header.structure, RandomAccess))
        self._units.append(_WrittenUnit(self.size_bytes, frames, back))
        self._open_ended = frames == 0
        self._append(head + struct.pack("<H", _checksum(head, self._chain)))

    def write(self, packet: Packet, poc: int) -> None:
        """Append one frame; a unit must be open."""
        if len(packet.payload) >= MAX_PAYLOAD or len(packet.payload) % 4:
            raise ValueError(
                f"frame {poc} takes {len(packet.payload)} bytes, a packet holds less than {MAX_PAYLOAD}, "
                "in words of 4; code a smaller picture or at lower q"
            )
        head = bytes([TYPES.index(packet.frame_type) << 6 | packet.q]) + _packet_length(len(packet.payload))
        symbols = struct.pack("<H", packet.symbols_crc)
        crc = _checksum(head + symbols + packet.payload, self._chain)
        self._append(head + struct.pack("<H", crc) + symbols + packet.payload)
        self._units[-1].frames += self._open_ended
        self._file.flush()

    def close(self) -> None:
        """Write the trailer."""
        if not self._units:
            raise ValueError("nothing was written; a stream holds at least one frame")
        offsets = [*(unit.offset for unit in self._units[1:]), self.size_bytes]
        body = bytes([MARKER << 6 | END]) + varint(len(self._units))
        for unit, end in zip(self._units, offsets, strict=True):
            body += varint(unit.frames) + varint(end - unit.offset) + varint(unit.back) + struct.pack("<I", unit.chain)
        body += struct.pack("<I", len(body) + 8)
        self._write(body + struct.pack("<I", zlib.crc32(body)))

    def _append(self, data: bytes) -> None:
        """Write a part of the newest unit."""
        self._write(data)
        self._chain = self._units[-1].chain = zlib.crc32(data, self._chain)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.size_bytes += len(data)


class StreamReader:
    """Reads a stream from front to back, or from a unit named by `index`.

    Args:
        file: binary, readable; only `index` and `seek` need it seekable.

    Raises:
        BitstreamError: where the header is not one.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.header, self.header_bytes, self._chain = self._read_header()
        self._opening_chain = self._chain

    def _read_header(self) -> tuple[Header, int, int]:
        magic = self._file.read(len(MAGIC))
        if magic != MAGIC:
            what = "the file is empty" if not magic else f"it starts with {magic!r}"
            raise BitstreamError(f"not an .lvc stream: {what}, expected {MAGIC!r}")
        length, raw = _read_varint(self._file)
        if length > 4096:
            raise BitstreamError(f"the header claims {length} bytes, expected at most 4096: damaged file")
        body = self._file.read(length)
        checksum = self._file.read(4)
        if len(body) < length or len(checksum) < 4:
            raise BitstreamError("the file ends inside its header: truncated")
        crc = zlib.crc32(magic + raw + body)
        if struct.unpack("<I", checksum)[0] != crc:
            raise BitstreamError("the header's CRC-32 does not match: damaged file")
        if body and body[0] != VERSION:
            raise BitstreamError(
                f"container version {body[0]}, this library reads {VERSION}; use the lvc_zoo that wrote the file"
            )
        try:
            header = _parse_header(io.BytesIO(body))
        except (struct.error, ArithmeticError, IndexError, ValueError) as error:
            raise BitstreamError(f"the header holds what no lvc_zoo writes ({error}): foreign file") from error
        return header, len(magic + raw + body) + 4, crc

    def read(self, poc: int) -> Unit | Packet | None:
        """The next element; None at the end, after a sound trailer.

        Args:
            poc: of the frame that is expected, for the check and for messages.

        Raises:
            BitstreamError: for damaged, foreign or missing bytes; names the frame.
        """
        first = self._file.read(1)
        if not first:
            raise BitstreamError(f"the stream ends before frame {poc}: truncated, or still being written", poc=poc)
        if first[0] == MARKER << 6 | END:
            self._check_end(first, poc)
            return None
        if first[0] >> 6 == MARKER:
            return self._read_unit(first, poc)
        length, raw = self._read_length(poc)
        rest = self._file.read(4 + length)
        if len(rest) < 4 + length:
            raise BitstreamError(f"the stream ends inside frame {poc}: truncated", poc=poc)
        crc, symbols_crc = struct.unpack("<HH", rest[:4])
        if _checksum(first + raw + rest[2:], self._chain) != crc:
            raise BitstreamError(
                f"the packet of frame {poc} fails its CRC: damaged, or from another place or stream", poc=poc
            )
        self._chain = zlib.crc32(first + raw + rest, self._chain)
        return Packet(TYPES[first[0] >> 6], first[0] & 63, rest[4:], symbols_crc)

    def _read_unit(self, first: bytes, poc: int) -> Unit:
        frames, raw = _read_varint(self._file, poc)
        crc = self._file.read(2)
        if len(crc) < 2:
            raise BitstreamError(f"the stream ends before frame {poc}: truncated", poc=poc)
        if _checksum(first + raw, self._chain) != struct.unpack("<H", crc)[0]:
            raise BitstreamError(
                f"the unit that should start at frame {poc} fails its CRC: damaged, or from another place or stream",
                poc=poc,
            )
        self._chain = zlib.crc32(first + raw + crc, self._chain)
        return Unit(poc, frames, bool(first[0] & FINAL))

    def _check_end(self, first: bytes, poc: int) -> None:
        """Check the trailer: a damaged byte that looks like its mark must not end the stream quietly."""
        body, frames, chain = bytearray(first), 0, b""
        count, raw = _read_varint(self._file, poc)
        body += raw
        for _ in range(count):
            for i in range(3):
                value, raw = _read_varint(self._file, poc)
                body += raw
                frames += value if i == 0 else 0
            chain = self._file.read(4)
            body += chain
        body += self._file.read(4)
        checksum = self._file.read(4)
        if len(checksum) < 4:
            raise BitstreamError(f"the stream ends inside the trailer after frame {poc - 1}: truncated", poc=poc)
        sound = struct.pack("<I", zlib.crc32(body)) == checksum
        if not sound or frames != poc or chain != struct.pack("<I", self._chain):
            raise BitstreamError(
                f"what follows frame {poc - 1} is neither a frame nor this stream's sound trailer: damaged, or spliced",
                poc=poc,
            )

    def _read_length(self, poc: int) -> tuple[int, bytes]:
        raw = self._file.read(1)
        extra = 0 if not raw or raw[0] < 0x80 else 1 if raw[0] < 0xC0 else 2
        raw += self._file.read(extra)
        if len(raw) != 1 + extra:
            raise BitstreamError(f"the stream ends inside frame {poc}: truncated", poc=poc)
        value = int.from_bytes(raw, "big") & (0x7F, 0x3FFF, 0x3FFFFF)[extra]
        return 4 * value, raw

    def seek(self, entry: IndexEntry) -> None:
        """Continue at a unit of the index."""
        self._file.seek(entry.offset)
        self._chain = entry.chain

    def index(self) -> list[IndexEntry]:
        """All units by the trailer; the reading position is kept.

        Raises:
            BitstreamError: where the trailer is missing or damaged.
        """
        here = self._file.tell()
        try:
            end = self._file.seek(0, os.SEEK_END)
            tail = self._read_tail(end)
        finally:
            self._file.seek(here)
        return self._parse_index(io.BytesIO(tail[1:-8]))

    def _read_tail(self, end: int) -> bytes:
        self._file.seek(max(end - 8, 0))
        length, crc = struct.unpack("<II", self._file.read(8)) if end >= 8 else (0, 0)
        if not 10 <= length <= end - self.header_bytes:
            raise BitstreamError("the stream has no trailer: truncated, or still being written; decode from the start")
        self._file.seek(end - length)
        tail = self._file.read(length)
        if zlib.crc32(tail[:-4]) != crc or tail[0] != MARKER << 6 | END:
            raise BitstreamError("the trailer's CRC-32 does not match: damaged file; decode from the start")
        return tail

    def _parse_index(self, body: BinaryIO) -> list[IndexEntry]:
        entries: list[IndexEntry] = []
        first, offset, chain = 0, self.header_bytes, self._opening_chain
        for i in range(_read_varint(body)[0]):
            frames, size, back = (_read_varint(body)[0] for _ in range(3))
            entries.append(IndexEntry(first, frames, offset, chain, i - back, first - 1 if back else first))
            first, offset, chain = first + frames, offset + size, struct.unpack("<I", body.read(4))[0]
        return entries


def coded_frames(reader: StreamReader, first: int = 0) -> Iterator[tuple[FramePlan, Packet]]:
    """Plans and packets in coding order, from the reading position to the trailer.

    Args:
        reader: standing at a unit.
        first: POC of that unit's first frame in display order.

    Raises:
        BitstreamError: for damaged, foreign or missing bytes; what came before has been yielded.
    """
    structure = reader.header.structure
    element = reader.read(first)
    while element is not None:
        if not isinstance(element, Unit):
            raise BitstreamError(f"a packet stands where a unit should start at frame {first}: damaged", poc=first)
        if element.frames:
            for plan in structure.gop(first, element.frames, element.final):
                yield plan, _expect_packet(reader.read(plan.poc), plan)
            first += element.frames
            element = reader.read(first)
            continue
        element = reader.read(first)
        while isinstance(element, Packet):
            plan = structure.gop(first, 1, final=False)[0]
            yield plan, _expect_packet(element, plan)
            first += 1
            element = reader.read(first)


def _expect_packet(element: Unit | Packet | None, plan: FramePlan) -> Packet:
    if not isinstance(element, Packet) or element.frame_type is not plan.frame_type:
        raise BitstreamError(
            f"the stream has no {plan.frame_type.name} packet where frame {plan.poc} should be: damaged", poc=plan.poc
        )
    return element


def varint(value: int) -> bytes:
    """A non-negative integer, seven bits a byte, low bits first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(file: BinaryIO, poc: int | None = None) -> tuple[int, bytes]:
    value, raw = 0, b""
    while True:
        byte = file.read(1)
        if not byte or len(raw) == 9:
            where = "in the header or trailer" if poc is None else f"after frame {poc - 1}"
            raise BitstreamError(f"a number {where} does not end: truncated or damaged", poc=poc)
        value |= (byte[0] & 0x7F) << 7 * len(raw)
        raw += byte
        if byte[0] < 0x80:
            return value, raw


def _packet_length(length: int) -> bytes:
    """Payload length in 4-byte words: 7, 14 or 22 bits behind a prefix."""
    words = length // 4
    if words < 1 << 7:
        return words.to_bytes(1, "big")
    if words < 1 << 14:
        return (words | 0x80 << 8).to_bytes(2, "big")
    return (words | 0xC0 << 16).to_bytes(3, "big")


def _checksum(data: bytes, chain: int) -> int:
    """CRC-16 that continues the chain."""
    return binascii.crc_hqx(data, chain & 0xFFFF)


def _text(value: str) -> bytes:
    data = value.encode()
    return varint(len(data)) + data


def _parse_header(body: BinaryIO) -> Header:
    _, device, width, height, colour = struct.unpack("<BBHHB", body.read(7))
    numerator, denominator = _read_varint(body)[0], _read_varint(body)[0]
    random_access = body.read(1)[0]
    period = _read_varint(body)[0]
    model, origin = (body.read(_read_varint(body)[0]).decode() for _ in range(2))
    digests = body.read(8), body.read(8)
    return Header(
        model=model,
        origin=origin,
        weights_digest=digests[0],
        table_digest=digests[1],
        device=DEVICES[device],
        width=width,
        height=height,
        frame_rate=Fraction(numerator, denominator),
        matrix=MATRICES[colour & 1],
        full_range=bool(colour & 2),
        bit_depth=10 if colour & 4 else 8,
        chroma=CHROMA[colour >> 3 & 3],
        color_assumed=bool(colour & 32),
        structure=RandomAccess(period) if random_access else LowDelay(period or None),
    )
