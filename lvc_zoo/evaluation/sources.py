"""Test clips on disk: found, hashed, cropped, opened."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from ..color import SUBSAMPLING, ColorSpec, planes_to_rgb
from ..data.cache import SUFFIXES, open_by_name
from ..data.prepare import sha256_of
from ..data.readers import (
    PICTURE_SUFFIXES,
    FrameReader,
    Planes,
    RawReader,
    TensorReader,
    VideoReader,
    list_pictures,
    read_picture,
)
from .conditions import CROP_MULTIPLE, SourceClip


@runtime_checkable
class PlanarReader(Protocol):
    """A reader that also gives the code values that its source stores."""

    def planes(self) -> Iterator[Planes]:
        """Y, Cb, Cr of each frame, as the reader's `color` describes them."""


class Box(NamedTuple):
    """A rectangle of a frame; `top` and `left` are even, so that it cuts subsampled chroma, too."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, plane: Tensor, shrink: tuple[bool, bool] = (False, False)) -> Tensor:
        """The rectangle of `(..., H, W)`, a plane with half the (lines, columns) where `shrink` says so."""
        lines, columns = (1 + half for half in shrink)
        height, width = -(-self.height // lines), -(-self.width // columns)
        top, left = self.top // lines, self.left // columns
        return plane[..., top : top + height, left : left + width]


class CroppedReader:
    """A rectangle of another reader's frames."""

    def __init__(self, reader: FrameReader, box: Box) -> None:
        self._reader, self._box = reader, box
        self.width, self.height = box.width, box.height
        self.frame_rate: Fraction = reader.frame_rate
        self.color: ColorSpec = reader.color
        self.num_frames = reader.num_frames

    def __iter__(self) -> Iterator[Tensor]:
        """Frames `(3, H, W)`."""
        return (self._box.cut(frame) for frame in self._reader)


class CroppedPlanarReader(CroppedReader):
    """The same of a YCbCr source: its planes are cut, and RGB is made from what is left."""

    _reader: VideoReader | RawReader

    def __iter__(self) -> Iterator[Tensor]:
        """Frames `(3, H, W)`."""
        return (planes_to_rgb(y, u, v, self.color) for y, u, v in self.planes())

    def planes(self) -> Iterator[Planes]:
        """Y, Cb, Cr of each frame."""
        shrink, box = SUBSAMPLING[self.color.chroma], self._box
        return ((box.cut(y), box.cut(u, shrink), box.cut(v, shrink)) for y, u, v in self._reader.planes())


@dataclass(frozen=True, slots=True)
class Clip:
    """A test clip on this machine.

    Attributes:
        path: a video, a raw .yuv file, a folder of PNG pictures, or a picture (a clip of one frame).
        source: what a test condition says of it.
        num_frames: how many frames are read.
    """

    path: Path
    source: SourceClip
    num_frames: int

    def open(self) -> FrameReader:
        """A reader of its frames, cropped; YCbCr sources give a `PlanarReader`."""
        return cropped(_opened(self.path, self.num_frames, self.source.color), self.source.width, self.source.height)


def find_clips(
    where: Sequence[Path],
    num_frames: int = 33,
    max_size: tuple[int, int] | None = None,
    color: ColorSpec | None = None,
) -> list[Clip]:
    """The test clips in folders, or among named files, in order of name.

    A folder gives each video, each picture (a clip of one frame) and each folder of PNG pictures in it; other files are
    passed over. Raw files carry size, depth, chroma format and frame rate in their names, `NAME_416x240_50fps_420.yuv`.

    Args:
        where: folders, videos, pictures.
        num_frames: frames to read from each.
        max_size: largest width and height; larger clips are cropped about their centre.
        color: matrix and range of all clips; None believes each clip's tags and guesses where there are none.

    Raises:
        FileNotFoundError: for a path that does not exist.
        ValueError: where there is no clip, or a clip is too short or too small.
    """
    paths = [found for path in where for found in _clips_at(path)]
    if not paths:
        raise ValueError(
            f"{', '.join(map(str, where))} holds no clip; expected videos, pictures ({', '.join(SUFFIXES)}), or "
            "folders of PNG pictures"
        )
    return sorted((_describe(path, num_frames, max_size, color) for path in paths), key=lambda clip: clip.source.name)


def _clips_at(path: Path) -> Iterable[Path]:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a folder of clips, or clips")
    if not path.is_dir():
        return [path]
    return sorted(
        entry
        for entry in path.iterdir()
        if (list_pictures(entry, (".png",)) if entry.is_dir() else entry.suffix.lower() in SUFFIXES)
    )


def _describe(path: Path, num_frames: int, max_size: tuple[int, int] | None, color: ColorSpec | None) -> Clip:
    reader = _opened(path, num_frames, color)
    width, height = (
        _side(side, None if max_size is None else max_size[axis], path)
        for axis, side in enumerate((reader.width, reader.height))
    )
    is_yuv = _is_yuv(reader)
    count = sum(1 for _ in (reader.planes() if isinstance(reader, PlanarReader) else reader))
    if count < num_frames:
        raise ValueError(
            f"{path} has {count} frames, expected at least {num_frames}; ask for fewer with --frames, or leave it out"
        )
    color = reader.color
    source = SourceClip(
        name=path.stem if path.is_file() else path.name,
        sha256=_sha256(path),
        width=width,
        height=height,
        frame_rate=str(Fraction(reader.frame_rate)),
        stored_as="yuv" if is_yuv else "rgb",
        matrix=color.matrix,
        full_range=color.full_range,
        bit_depth=color.bit_depth,
        chroma=color.chroma,
        color_assumed=color.assumed,
    )
    return Clip(path, source, num_frames)


def _side(side: int, largest: int | None, path: Path) -> int:
    multiple = 2 if largest is None else CROP_MULTIPLE
    cropped = (side if largest is None else min(side, largest)) // multiple * multiple
    if not cropped:
        raise ValueError(f"{path} has a side of {side}, which leaves nothing in multiples of {multiple}; leave it out")
    return cropped


def _opened(path: Path, num_frames: int, color: ColorSpec | None) -> FrameReader:
    if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
        return _still(path, color)
    return open_by_name(path, num_frames, color)


def _still(path: Path, color: ColorSpec | None) -> TensorReader:
    stored = None if color is None else replace(color, bit_depth=8, chroma="444")
    return TensorReader(read_picture(path).permute(2, 0, 1)[None].float() / 255, color=stored)


def _is_yuv(reader: FrameReader) -> bool:
    return isinstance(reader, RawReader) or (isinstance(reader, VideoReader) and not reader.is_rgb)


def cropped(reader: FrameReader, width: int, height: int) -> FrameReader:
    """A reader cut to `width` and `height` pixels about its centre; of a YCbCr source still a `PlanarReader`."""
    if (reader.width, reader.height) == (width, height):
        return reader
    top, left = ((side - kept) // 4 * 2 for side, kept in ((reader.height, height), (reader.width, width)))
    kind = CroppedPlanarReader if _is_yuv(reader) else CroppedReader
    return kind(reader, Box(top, left, height, width))


def _sha256(path: Path) -> str:
    if path.is_file():
        return sha256_of(path)
    lines = "".join(f"{sha256_of(picture)}  {picture.name}\n" for picture in list_pictures(path, (".png",)))
    return hashlib.sha256(lines.encode()).hexdigest()
