"""x264 and x265 behind the surface of our own codecs: `encode(reader, path, q, structure)` and `decode(path)`."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.video.codeccontext import VideoCodecContext
from torch import Tensor

from ..codec.reader import FrameReader
from ..codec.video import MAX_Q, EncodedVideo, FrameRecord, atomic_output
from ..color import ColorSpec, rgb_to_planes
from ..data.readers import Planes, VideoReader
from ..data.writers import tag_color, video_frame
from ..errors import nearest_names
from ..gop import GopStructure, RandomAccess
from .sources import PlanarReader

ENCODERS = {"x264": ("libx264", "h264"), "x265": ("libx265", "hevc")}
"""FFmpeg's names of the encoder and of its elementary stream."""
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
CRF_AT_ENDS = (45.0, 17.0)
"""CRF at q = 0 and at q = 63."""
TUNES = ("psnr", "ssim")
THREADS = 1
"""CHOICE: the bytes depend on it, and with more threads x264 cuts frames into slices, which costs it 5 % of rate."""


def crf_of(q: float) -> float:
    """CRF at rate point `q`, 0..63, higher is better: linear between `CRF_AT_ENDS`.

    Example:
        >>> crf_of(0), crf_of(63)
        (45.0, 17.0)
    """
    if not 0 <= q <= MAX_Q:
        raise ValueError(f"q is {q}, expected 0 (smallest file) to {MAX_Q} (best quality)")
    worst, best = CRF_AT_ENDS
    return worst + (best - worst) * q / MAX_Q


@dataclass(frozen=True, slots=True)
class ExternalCodec:
    """x264 or x265 at constant rate factor, 4:2:0, 8 bit, in the source's matrix and range.

    The file is the bare elementary stream without the encoder's description of itself, so that every byte is payload.

    Attributes:
        name: "x264" or "x265".
        preset: the encoder's own word for its effort.
        tune: of `TUNES`; None is the encoder's default, which spends bits where eyes and not PSNR gain by them.

    Example:
        >>> ExternalCodec("x265", preset="slow")
        ExternalCodec(name='x265', preset='slow', tune=None)
    """

    name: str
    preset: str = "medium"
    tune: str | None = None

    def __post_init__(self) -> None:
        """Check the names."""
        if self.name not in ENCODERS:
            raise ValueError(f"external codec {self.name!r} is unknown" + nearest_names(self.name, ENCODERS))
        if self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} is unknown" + nearest_names(self.preset, PRESETS))
        if self.tune not in (None, *TUNES):
            raise ValueError(f"tune {self.tune!r} is unknown, expected one of {', '.join(TUNES)}, or None")

    def encode(
        self,
        reader: FrameReader,
        path: str | os.PathLike[str],
        q: float = 32,
        structure: GopStructure | None = None,
        *,
        crf: float | None = None,
    ) -> EncodedVideo:
        """Encode a video into an elementary stream.

        Args:
            reader: frames, of even sides.
            path: the file appears under this name when it is complete; any suffix.
            q: rate point, 0..63; see `crf_of`.
            structure: its intra period becomes the key frame distance (without scene cut detection, GOPs open), and
                without reordering there are no B frames. None is `RandomAccess()`.
            crf: constant rate factor, in place of `q`.

        Returns:
            Sizes by frame, in coding order. `layer` is 0, 1, 2 for I, P, B; `bits` stays empty.

        Raises:
            ValueError: for a wrong q, an odd side or an empty reader; nothing is left behind.
        """
        if reader.width % 2 or reader.height % 2:
            raise ValueError(
                f"frames are {reader.width}x{reader.height}, {self.name} codes even sides only (4:2:0); crop the source"
            )
        spec = replace(reader.color, bit_depth=8, chroma="420")
        encoder = self._encoder(reader, spec, structure or RandomAccess(), crf_of(q) if crf is None else crf)
        sizes: list[tuple[int, int]] = []
        with atomic_output(Path(path)) as file:
            for packet in _packets(encoder, _planes(reader, spec), spec):
                data = bytes(packet) if sizes else _without_description(bytes(packet))
                sizes.append((packet.pts or 0, file.write(data)))
            if not sizes:
                raise ValueError("the reader gave no frame; a video needs at least one")
        types = self._frame_types(Path(path))
        layers = {"I": 0, "P": 1, "B": 2}
        records = [FrameRecord(poc, types[poc], layers[types[poc]], size, 0) for poc, size in sizes]
        return EncodedVideo(Path(path).stat().st_size, len(records), reader.width * reader.height, records)

    def decode(self, path: str | os.PathLike[str]) -> Iterator[Tensor]:
        """Decoded frames `(3, H, W)`, RGB in [0, 1], in display order."""
        return iter(self.open(path))

    def open(self, path: str | os.PathLike[str]) -> VideoReader:
        """The decoder as a reader, which also gives the decoded planes."""
        return VideoReader(Path(path), container=ENCODERS[self.name][1])

    @property
    def version(self) -> str:
        """The encoder, its effort, and the libraries that it came with."""
        libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
        tune = f" tuned to {self.tune}" if self.tune else ""
        encoder = f"{ENCODERS[self.name][0]} {self.preset}{tune}, {THREADS} thread"
        return f"{encoder}, PyAV {av.__version__}, libavcodec {libavcodec}"

    def _encoder(self, reader: FrameReader, spec: ColorSpec, structure: GopStructure, crf: float) -> VideoCodecContext:
        library, _ = ENCODERS[self.name]
        if library not in av.codecs_available:
            raise ValueError(
                f"this build of PyAV has no {library}; install the wheel, `pip install --force-reinstall av`"
            )
        encoder = cast(VideoCodecContext, av.CodecContext.create(library, "w"))
        encoder.width, encoder.height, encoder.pix_fmt = reader.width, reader.height, "yuv420p"
        encoder.framerate = Fraction(reader.frame_rate)
        encoder.time_base = 1 / Fraction(reader.frame_rate)
        encoder.thread_count = THREADS
        tag_color(encoder, spec)
        period = structure.intra_period  # type: ignore[attr-defined]
        own = {"scenecut": "0", "open-gop": "1"} | ({} if structure.reorder else {"bframes": "0"})
        if self.name == "x264":
            own |= {"keyint": str(period or "infinite")}
        else:
            own |= {"keyint": str(period or -1), "info": "0", "log-level": "error", "frame-threads": str(THREADS)}
        settings = ":".join(f"{key}={value}" for key, value in own.items())
        tune = {"tune": self.tune} if self.tune else {}
        encoder.options = {"preset": self.preset, **tune, "crf": f"{crf:g}", f"{self.name}-params": settings}
        return encoder

    def _frame_types(self, path: Path) -> list[str]:
        """The letter of each frame's type, in display order."""
        with av.open(f"file:{path}", format=ENCODERS[self.name][1]) as container:
            return [av.video.frame.PictureType(frame.pict_type).name for frame in container.decode(video=0)]


def _planes(reader: FrameReader, spec: ColorSpec) -> Iterator[Planes]:
    """The source's own code values where they are what the encoder takes: resampled chroma would handicap it."""
    if isinstance(reader, PlanarReader) and reader.color == spec:
        return reader.planes()
    return (rgb_to_planes(rgb, spec) for rgb in reader)


def _packets(encoder: VideoCodecContext, source: Iterable[Planes], spec: ColorSpec) -> Iterator[av.Packet]:
    """The encoder's packets, their `pts` the display index."""
    for index, planes in enumerate(source):
        frame = video_frame(*planes, spec)
        frame.pts, frame.time_base = index, encoder.time_base
        yield from encoder.encode(frame)
    yield from encoder.encode(None)


def _without_description(packet: bytes) -> bytes:
    """An H.264 packet less the text of several hundred bytes in which x264 tells its settings; others pass through."""
    starts = [match.start() for match in re.finditer(rb"\x00?\x00\x00\x01", packet)]
    units = [packet[start:stop] for start, stop in zip(starts, [*starts[1:], len(packet)], strict=True)]
    # header byte 6 = SEI, then payload type 5 = user data
    return b"".join(unit for unit in units if unit.lstrip(b"\x00")[1:3] != b"\x06\x05")
