"""Folders of videos and pictures as footage: decoded once, into arrays that training maps into memory."""

import hashlib
import json
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple, TypeVar
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from ..codec.reader import FrameReader
from ..color import ColorSpec
from .cuts import find_cuts, thumbnail
from .footage import Footage, StoredFootage
from .readers import PICTURE_SUFFIXES, VIDEO_SUFFIXES, list_pictures, open_video, read_picture

RAW_SUFFIX = ".yuv"
SUFFIXES = (*VIDEO_SUFFIXES, RAW_SUFFIX, *PICTURE_SUFFIXES)
Item = TypeVar("Item")
# part of the names in the cache: what is decoded or found in another way needs another number
CACHE_VERSION = 2


def list_sources(folder: str | Path) -> list[Path]:
    """What a folder holds: videos and pictures (each a still), or else folders of pictures (each a clip of frames).

    Args:
        folder: where it holds files of the kind, its folders are left alone.

    Raises:
        FileNotFoundError: where there is no such folder.
        ValueError: where it holds nothing of the kind.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give one that holds videos, pictures or folders of frames")
    inside = sorted(folder.iterdir())
    sources = [path for path in inside if path.suffix.lower() in SUFFIXES and path.is_file()]
    sources = sources or [path for path in inside if path.is_dir() and list_pictures(path)]
    if not sources:
        raise ValueError(
            f"{folder} holds no video or picture ({', '.join(SUFFIXES)}) and no folder of pictures; "
            "give the folder that lies directly above them"
        )
    return sources


def decode_sources(sources: Sequence[Path], cache: str | Path, name: str) -> list[Footage]:
    """Decode videos, pictures and folders of pictures, and find their cuts, where the cache does not have them yet.

    A name in the cache tells the source's place, size and time, so a changed source is decoded anew; an entry appears
    when it is complete, so an interrupted call goes on where it stopped.

    Args:
        sources: what to decode.
        cache: folder for the arrays, uint8 `(T, H, W, 3)` RGB (0.7 MB a 640x360 frame), and their cuts; created.
        name: of all of them, for messages.

    Raises:
        ValueError: for a source that cannot be read; `lvc-zoo data check` lists them all.
    """
    entries = [_Entry.of(source, Path(cache)) for source in sources]
    missing = [entry for entry in entries if not entry.facts.exists()]
    if missing:
        Path(cache).mkdir(parents=True, exist_ok=True)
        with gathered_color_warnings(name):
            for entry in progress(missing, f"decoding {Path(name).name}"):
                entry.decode()
    return [entry.footage() for entry in entries]


def is_excluded(name: str, exclude: Sequence[str]) -> bool:
    """Whether a glob pattern matches the name."""
    return any(fnmatch(name, pattern) for pattern in exclude)


class _Entry(NamedTuple):
    """A source and its two files in the cache; the second is written last."""

    source: Path
    array: Path
    facts: Path

    @classmethod
    def of(cls, source: Path, cache: Path) -> "_Entry":
        parts = list_pictures(source) if source.is_dir() else [source]
        state = [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
        digest = hashlib.sha256(repr((CACHE_VERSION, str(source.resolve()), state)).encode()).hexdigest()[:12]
        return cls(source, cache / f"{source.stem}-{digest}.npy", cache / f"{source.stem}-{digest}.json")

    def decode(self) -> None:
        partial = self.array.with_suffix(f".{uuid4().hex}.part")
        thumbnails = []

        def frames() -> Iterator[np.ndarray]:
            for frame in map(to_codes, read_frames(self.source)):
                thumbnails.append(thumbnail(frame))
                yield frame

        try:
            shape = write_array(partial, frames())
            partial.replace(self.array)
        finally:
            partial.unlink(missing_ok=True)
        facts = {"name": self.source.name, "shape": shape, "cuts": find_cuts(np.stack(thumbnails))}
        partial.write_text(json.dumps(facts))
        partial.replace(self.facts)

    def footage(self) -> Footage:
        facts = json.loads(self.facts.read_text())
        num_frames, height, width, _ = facts["shape"]
        return StoredFootage(str(self.source), num_frames, height, width, tuple(facts["cuts"]), self.array)


def read_frames(source: Path) -> Iterable[Tensor]:
    """Frames `(3, H, W)` in [0, 1] of a video, of a picture, or of a folder of pictures."""
    if source.is_dir():
        return _read_pictures(list_pictures(source))
    if source.suffix.lower() in PICTURE_SUFFIXES:
        return _read_pictures([source])
    return open_by_name(source)


def open_by_name(source: Path, frames: int | None = None, color: ColorSpec | None = None) -> FrameReader:
    """A reader as `open_video` gives it; of a raw `.yuv` file, its name says what there is no header for.

    Args:
        source: as for `open_video`, or for `raw_format`.
        frames: see `open_video`.
        color: see `open_video`.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file that cannot be read, or a raw one without a size in its name.
    """
    if source.suffix.lower() == RAW_SUFFIX and source.is_file():
        size, pixel_format, rate = raw_format(source)
        return open_video(source, frames=frames, color=color, size=size, pixel_format=pixel_format, frame_rate=rate)
    return open_video(source, frames=frames, color=color)


def _read_pictures(pictures: Sequence[Path]) -> Iterator[Tensor]:
    first = None
    for path in pictures:
        codes = read_picture(path)
        first = first or codes.shape
        if codes.shape != first:
            raise ValueError(
                f"{path} is {codes.shape[1]}x{codes.shape[0]}, expected {first[1]}x{first[0]} as the frames before it"
            )
        yield codes.permute(2, 0, 1).float() / 255


def raw_format(path: Path) -> tuple[tuple[int, int], str, float | None]:
    """(width, height), pixel format and frames per second from the name of a `.yuv` file.

    The format is FFmpeg's name of what the file claims to hold, `yuv420p12le` too, which the reader refuses.

    Example:
        >>> raw_format(Path("Park_960x544_25fps_10bit_420.yuv"))
        ((960, 544), 'yuv420p10le', 25.0)
        >>> raw_format(Path("BasketballPass_416x240_50.yuv"))
        ((416, 240), 'yuv420p', 50.0)

    Raises:
        ValueError: where the name tells no size.
    """
    size = re.search(r"(\d+)x(\d+)", path.stem)
    if size is None:
        raise ValueError(f"{path} has no header, and no WIDTHxHEIGHT in its name; rename it to NAME_WIDTHxHEIGHT.yuv")
    rest = path.stem.replace(size[0], "")
    bits = re.search(r"(\d+) ?-?bit", rest, re.IGNORECASE) or re.search(r"(8|1[0246])le(?![a-z])", rest)
    chroma = re.search(r"(?<!\d)4(20|22|44)(?!\d)", rest)
    suffix = "" if bits is None or bits[1] == "8" else f"{bits[1]}le"
    rate = re.search(r"(\d+(?:\.\d+)?) ?fps", rest, re.IGNORECASE) or re.match(
        rf"{size[0]}_(\d\d)\b", path.stem[size.start() :]
    )
    form = f"yuv{chroma[0] if chroma else '420'}p{suffix}"
    return (int(size[1]), int(size[2])), form, float(rate[1]) if rate else None


def to_codes(frame: Tensor) -> np.ndarray:
    """A frame `(3, H, W)` in [0, 1] as uint8 `(H, W, 3)`."""
    return (frame * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def write_array(path: Path, frames: Iterable[np.ndarray]) -> tuple[int, ...]:
    """Write a `.npy` file whose length is known only at the end; gives its shape."""
    shape: tuple[int, ...] = (0,)
    with path.open("wb") as file:
        for frame in frames:
            if shape == (0,):
                shape = (0, *frame.shape)
                _write_header(file, shape)
                start = file.tell()
            frame.tofile(file)
            shape = (shape[0] + 1, *shape[1:])
        if shape == (0,):
            raise ValueError(f"{path.stem} has no frame")
        file.seek(0)
        _write_header(file, shape)
        # NumPy leaves room for the first dimension to grow
        if file.tell() != start:
            raise RuntimeError(f"the header of {path} grew from {start} to {file.tell()} bytes, expected it to stay")
    return shape


def _write_header(file, shape: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


@contextmanager
def gathered_color_warnings(folder: str | Path) -> Iterator[None]:
    """Say once for a folder what the reader says for each video without a colour tag; other warnings pass."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
    untagged = [warning for warning in seen if "does not say which matrix" in str(warning.message)]
    for warning in seen:
        if warning not in untagged:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if untagged:
        warnings.warn(
            f"{len(untagged)} videos of {folder} do not say which matrix their colours use; they are read as BT.601 "
            "below 720 lines and as BT.709 from there",
            stacklevel=3,
        )


def progress(items: Sequence[Item], what: str) -> Iterable[Item]:
    """The items, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    return track(items, what, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
