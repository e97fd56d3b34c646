"""Videos as streams of RGB frames: anything that FFmpeg reads, raw YUV, folders of PNG pictures."""

import os
import re
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import chain, count, islice
from pathlib import Path

import av
import torch
from torch import Tensor

from ..codec.reader import FrameReader, TensorReader
from ..color import ColorSpec, planes_to_rgb
from ..errors import nearest_names

__all__ = ["FrameReader", "TensorReader", "PngReader", "RawReader", "VideoReader", "open_video"]

RAW_FORMATS = {
    f"yuv{chroma}p{'10le' if bits == 10 else ''}": (chroma, bits)
    for bits in (8, 10)
    for chroma in ("420", "422", "444")
}
"""Planar formats by FFmpeg's name: chroma and bit depth."""
# ITU-T H.273 code points, as FFmpeg passes them on
MATRIX_TAGS = {1: "bt709", 5: "bt601", 6: "bt601"}
OTHER_MATRIX_TAGS = {4: "FCC", 7: "SMPTE 240M", 8: "YCgCo", 9: "BT.2020", 10: "BT.2020 constant luminance"}
FULL_RANGE_TAG = 2
HDR_TAGS = {16: "PQ", 18: "HLG"}
STDIN = "-"
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".m4v", ".avi", ".webm", ".y4m")
"""What a folder's videos may be called, raw .yuv apart; a file named by itself may have any suffix."""
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
Planes = tuple[Tensor, Tensor, Tensor]


class IncompleteVideoWarning(UserWarning):
    """A file ends before the frames that it announces."""


def open_video(
    path: str | os.PathLike[str],
    *,
    frames: int | None = None,
    start: int = 0,
    color: ColorSpec | None = None,
    size: tuple[int, int] | None = None,
    pixel_format: str | None = None,
    frame_rate: Fraction | float | None = None,
) -> FrameReader:
    """A reader of a video; its frames are `(3, H, W)` float RGB in [0, 1], and only one is held at a time.

    Args:
        path: a file that FFmpeg reads, a `.yuv` file, a folder of PNG pictures, or "-" for Y4M on standard input.
        frames: read at most this many; None reads to the end.
        start: index of the first frame to read.
        color: matrix and range, over what the file says or lacks; None believes the tags and guesses where there are
            none. Bit depth and chroma format are always the file's own.
        size: width and height; for `.yuv`, where it is required.
        pixel_format: for `.yuv`, a key of `RAW_FORMATS`; None is "yuv420p".
        frame_rate: frames per second, over what the file says; None is 25 for `.yuv` and pictures.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file that cannot be read as asked, or, when it is reached, a frame that FFmpeg finds damaged.
    """
    if start < 0 or (frames is not None and frames < 1):
        raise ValueError(f"start is {start} and frames is {frames}, expected start >= 0 and frames >= 1 or None")
    path = Path(path)
    if str(path) != STDIN and not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a video file, a .yuv file or a folder of PNG pictures")
    rate = None if frame_rate is None else Fraction(frame_rate).limit_denominator(1001)
    raw = path.suffix.lower() == ".yuv" and not path.is_dir()
    if not raw and (size, pixel_format) != (None, None):
        raise ValueError(f"size and pixel_format are for raw .yuv files, {path.name} carries its own; leave them out")
    if raw and size is None:
        raise ValueError(f"{path} has no header; give its size=(width, height), and pixel_format if not yuv420p")
    reader: FrameReader
    if path.is_dir():
        reader = PngReader(path, start, frames, color, rate or Fraction(25))
    elif raw and size:
        reader = RawReader(path, size, pixel_format or "yuv420p", start, frames, color, rate or Fraction(25))
    else:
        reader = VideoReader(path, start, frames, color, rate)
    if reader.color.assumed and color is None:
        warnings.warn(
            f"{path} does not say which matrix its colours use; guessing {reader.color.matrix} from its "
            f"{reader.height} lines; override with color=ColorSpec(matrix=..., full_range=...), --color-matrix and "
            "--color-range on the command line",
            stacklevel=2,
        )
    return reader


def _frames_left(name: object, total: int, start: int, frames: int | None) -> int:
    """How many of `total` frames are asked for."""
    if start >= total:
        raise ValueError(f"start is {start}, but {name} has {total} frames; start below that")
    return total - start if frames is None else min(frames, total - start)


class VideoReader:
    """A file that FFmpeg reads, or Y4M on standard input; see `open_video`.

    The first frame is decoded at once, for its size, format and tags.

    Args:
        path: the file, "-" for standard input.
        start: index of the first frame.
        frames: at most so many, None = all.
        color: overrides the file's matrix and range.
        frame_rate: overrides the file's.
        container: FFmpeg's name of the container, None = by content.
    """

    def __init__(
        self,
        path: Path,
        start: int = 0,
        frames: int | None = None,
        color: ColorSpec | None = None,
        frame_rate: Fraction | None = None,
        container: str | None = None,
    ) -> None:
        self._path, self._start, self._frames, self._container = path, start, frames, container
        self._piped: Iterator[av.VideoFrame] | None = None
        first = self._probe(frame_rate)
        self.width, self.height = first.width, first.height
        self._target, self.color = self._color(first, color)
        if first.side_data.get("DISPLAYMATRIX") is not None:
            warnings.warn(f"{path} asks to be shown rotated or mirrored; the frames are read as stored", stacklevel=3)

    def _probe(self, frame_rate: Fraction | None) -> av.VideoFrame:
        """The first frame; sets what the container knows."""
        decoded = self._decode(frame_rate)
        try:
            first = next(decoded)
        except StopIteration:
            raise ValueError(f"{self._path} holds no frame that can be decoded; is it complete?") from None
        if str(self._path) == STDIN:
            self._piped = chain([first], decoded)
        else:
            decoded.close()
        return first

    @contextmanager
    def _opened(self) -> Iterator[av.container.InputContainer]:
        piped = str(self._path) == STDIN
        # the prefix keeps FFmpeg from taking a name with a colon for a protocol
        source, form = ("pipe:0", "yuv4mpegpipe") if piped else (f"file:{self._path}", self._container)
        try:
            container = av.open(source, format=form)
        except av.error.FFmpegError as error:
            expected = "standard input must hold Y4M, and something must write to it" if piped else "is the file whole?"
            what = "-" if piped else self._path
            raise ValueError(f"{what} cannot be read as a video: {error.strerror}; {expected}") from error
        with container:
            if not container.streams.video:
                raise ValueError(f"{self._path} has no video stream")
            yield container

    def _decode(self, frame_rate: Fraction | None) -> Generator[av.VideoFrame, None, None]:
        """All frames from the file's beginning; the first step sets rate and number."""
        with self._opened() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            self.frame_rate = frame_rate or stream.average_rate or stream.guessed_rate or Fraction(25)
            # zero is FFmpeg's word for unknown
            self._total = stream.frames or None
            self._seconds = _tagged_seconds(stream.metadata)
            decoded = container.decode(stream)
            for index in count():
                try:
                    frame = next(decoded)
                except StopIteration:
                    return
                except av.error.FFmpegError as error:
                    raise self._damage(index) from error
                # FFmpeg paints over what it could not read
                if frame.is_corrupt:
                    raise self._damage(index)
                self._transfer = int(stream.codec_context.color_trc)
                yield frame

    def _damage(self, index: int) -> ValueError:
        return ValueError(
            f"{self._path}, frame {index}: the data are damaged or incomplete; stop before it with frames={index}, "
            "or let `ffmpeg -i IN OUT` mend what it can"
        )

    def _color(self, frame: av.VideoFrame, color: ColorSpec | None) -> tuple[str, ColorSpec]:
        """The planar format to read, and what its codes mean."""
        form = frame.format
        bits = max((component.bits for component in form.components), default=0)
        if (form.is_rgb or form.has_palette or len(form.components) < 3) and 0 < bits <= 8:
            return "gbrp", replace(color or ColorSpec.for_rgb(self.height), bit_depth=8, chroma="444")
        reach = (form.chroma_width(4), form.chroma_height(4))
        subsampling = {(2, 2): "420", (2, 4): "422", (4, 4): "444"}.get(reach, "")
        target = f"yuv{subsampling}p{'10le' if bits == 10 else ''}"
        if target not in RAW_FORMATS or bits not in (8, 10) or form.is_rgb or len(form.components) < 3:
            raise ValueError(
                f"{self._path} has pixel format {form.name}, expected 8-bit RGB or 8- or 10-bit YCbCr in 4:2:0, 4:2:2 "
                "or 4:4:4; convert it first, for example with `ffmpeg -i IN -pix_fmt yuv444p10le OUT.mkv`"
            )
        if color is None:
            color = self._tagged(frame)
        return target, replace(color, bit_depth=bits, chroma=subsampling)

    def _tagged(self, frame: av.VideoFrame) -> ColorSpec:
        matrix, transfer = int(frame.colorspace), self._transfer
        if transfer in HDR_TAGS or matrix in OTHER_MATRIX_TAGS:
            what = HDR_TAGS.get(transfer) or OTHER_MATRIX_TAGS[matrix]
            raise ValueError(
                f"{self._path} is tagged {what}, expected BT.601 or BT.709; convert it first (HDR needs tone mapping), "
                "or give color= to read the codes as one of these"
            )
        spec = ColorSpec(MATRIX_TAGS[matrix]) if matrix in MATRIX_TAGS else ColorSpec.for_height(self.height)
        # an untagged range is limited by every standard; "yuvj" is FFmpeg's older way to say full
        full = int(frame.color_range) == FULL_RANGE_TAG or frame.format.name.startswith("yuvj")
        return replace(spec, full_range=full)

    @property
    def is_rgb(self) -> bool:
        """Whether the file stores RGB, so that `planes` gives G, B, R."""
        return self._target == "gbrp"

    @property
    def num_frames(self) -> int | None:
        """Number of frames that will be read, as the container says; None where it does not."""
        return None if self._total is None else _frames_left(self._path, self._total, self._start, self._frames)

    def __iter__(self) -> Iterator[Tensor]:
        """Frames `(3, H, W)`."""
        for first, second, third in self.planes():
            if self._target == "gbrp":
                yield torch.stack((third, first, second)).float() / 255
            else:
                yield planes_to_rgb(first, second, third, self.color)

    def planes(self) -> Iterator[Planes]:
        """The stored code values of each frame: Y, Cb, Cr as `color` describes them, or G, B, R of an RGB file."""
        decoded: Iterator[av.VideoFrame] = self._decode(self.frame_rate)
        if str(self._path) == STDIN:
            if self._piped is None:
                raise ValueError("standard input can be read only once; write it to a file to read it again")
            decoded, self._piped = self._piped, None
        taken, end = 0, 0.0
        for taken, frame in enumerate(islice(decoded, self._start, None), start=1):
            end = frame.time or end
            if (frame.width, frame.height) != (self.width, self.height):
                raise ValueError(
                    f"{self._path}, frame {self._start + taken - 1}: size {frame.width}x{frame.height}, expected "
                    f"{self.width}x{self.height} as before; split the video where the size changes"
                )
            yield self._planes(frame)
            if taken == self._frames:
                return
        if not taken:
            raise ValueError(f"start is {self._start}, but {self._path} has no more than that many frames")
        if announced := self._announced_beyond(self._start + taken, end):
            warnings.warn(
                f"{self._path} announces {announced}, but ends after {self._start + taken} frames; is it complete?",
                IncompleteVideoWarning,
                stacklevel=2,
            )

    def _announced_beyond(self, frames: int, end: float) -> str | None:
        """What the file announces, where it is more than so many frames, the last at `end` seconds."""
        if self.num_frames is not None and frames < self._start + self.num_frames:
            return f"{self._total} frames"
        if self._seconds is not None and end + 2 / self.frame_rate < self._seconds:
            return f"{self._seconds:g} seconds"
        if self._path.suffix.lower() == ".y4m" and not self.is_rgb and (by_size := self._y4m_frames()) > frames:
            return f"{by_size} frames by its size"
        return None

    def _y4m_frames(self) -> int:
        """Frames that begin in a Y4M file, the last perhaps cut off."""
        with self._path.open("rb") as file:
            header, mark = len(file.readline()), len(file.readline())
        sides = [(self.height, self.width), *[self.color.chroma_size(self.height, self.width)] * 2]
        frame = sum(h * w for h, w in sides) * (2 if self.color.bit_depth > 8 else 1)
        return -(-(self._path.stat().st_size - header) // (mark + frame))

    def _planes(self, frame: av.VideoFrame) -> Planes:
        if frame.format.name not in (self._target, self._target.replace("yuv", "yuvj")):
            # one range on both sides: samples are put in other places, never rescaled
            frame = frame.reformat(
                format=self._target, src_color_range=frame.color_range, dst_color_range=frame.color_range
            )
        first, second, third = (_plane(plane, self.color.bit_depth) for plane in frame.planes[:3])
        return first, second, third


def _tagged_seconds(metadata: Mapping[str, str]) -> float | None:
    """Length of a stream as Matroska's tags have it; None where they do not.

    Example:
        >>> _tagged_seconds({"DURATION": "00:01:02.500000000"})
        62.5
    """
    parts = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", metadata.get("DURATION", ""))
    return None if parts is None else 3600 * int(parts[1]) + 60 * int(parts[2]) + float(parts[3])


def _plane(plane: av.video.plane.VideoPlane, bit_depth: int) -> Tensor:
    """A view `(h, w)` of a plane, without the padding of its lines."""
    codes = torch.frombuffer(plane, dtype=torch.uint8 if bit_depth == 8 else torch.int16)
    stride = plane.line_size // codes.element_size()
    return codes[: stride * plane.height].view(plane.height, stride)[:, : plane.width]


class RawReader:
    """A headerless planar YCbCr file; see `open_video`.

    Args:
        path: the file.
        size: width and height.
        pixel_format: a key of `RAW_FORMATS`.
        start: index of the first frame.
        frames: at most so many, None = all.
        color: matrix and range, None = guessed.
        frame_rate: frames per second.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        pixel_format: str = "yuv420p",
        start: int = 0,
        frames: int | None = None,
        color: ColorSpec | None = None,
        frame_rate: Fraction = Fraction(25),
    ) -> None:
        if pixel_format not in RAW_FORMATS:
            raise ValueError(f"pixel format {pixel_format!r} is unknown" + nearest_names(pixel_format, RAW_FORMATS))
        self.width, self.height = size
        if min(size) < 1:
            raise ValueError(f"size is {size}, expected (width, height) of at least 1")
        self.frame_rate = frame_rate
        self._path, self._start = path, start
        chroma, bits = RAW_FORMATS[pixel_format]
        self.color = replace(color or ColorSpec.for_height(self.height), bit_depth=bits, chroma=chroma)
        chroma_size = self.color.chroma_size(self.height, self.width)
        self._sizes = [(self.height, self.width), chroma_size, chroma_size]
        self._frame_bytes = sum(h * w for h, w in self._sizes) * (2 if bits > 8 else 1)
        total, rest = divmod(path.stat().st_size, self._frame_bytes)
        if rest or not total:
            raise ValueError(
                f"{path} has {path.stat().st_size} bytes, expected a multiple of {self._frame_bytes} for "
                f"{self.width}x{self.height} {pixel_format}; check size and pixel_format"
            )
        self.num_frames = _frames_left(path, total, start, frames)

    def __iter__(self) -> Iterator[Tensor]:
        """Frames `(3, H, W)`."""
        return (planes_to_rgb(y, u, v, self.color) for y, u, v in self.planes())

    def planes(self) -> Iterator[Planes]:
        """The stored code values of each frame: Y, Cb, Cr as `color` describes them."""
        dtype = torch.uint8 if self.color.bit_depth == 8 else torch.int16
        with self._path.open("rb") as file:
            file.seek(self._start * self._frame_bytes)
            for _ in range(self.num_frames):
                codes = torch.frombuffer(bytearray(file.read(self._frame_bytes)), dtype=dtype)
                parts = codes.split([h * w for h, w in self._sizes])
                y, u, v = (part.view(size) for part, size in zip(parts, self._sizes, strict=True))
                yield y, u, v


class PngReader:
    """A folder of 8-bit PNG pictures, in the order of the numbers in their names; see `open_video`.

    Args:
        folder: searched without descending; files of other kinds are passed over.
        start: index of the first picture.
        frames: at most so many, None = all.
        color: how a decoder should store the video, None = `ColorSpec.for_rgb`.
        frame_rate: frames per second.
    """

    def __init__(
        self,
        folder: Path,
        start: int = 0,
        frames: int | None = None,
        color: ColorSpec | None = None,
        frame_rate: Fraction = Fraction(25),
    ) -> None:
        pictures = list_pictures(folder, (".png",))
        if not pictures:
            raise ValueError(f"{folder} holds no .png file")
        self.num_frames = _frames_left(folder, len(pictures), start, frames)
        self._pictures = pictures[start : start + self.num_frames]
        sizes = [_png_size(picture) for picture in self._pictures]
        for picture, size in zip(self._pictures, sizes, strict=True):
            if size != sizes[0]:
                raise ValueError(
                    f"{picture} is {size[0]}x{size[1]}, expected {sizes[0][0]}x{sizes[0][1]} as "
                    f"{self._pictures[0].name}; the frames of a video have one size"
                )
        self.width, self.height = sizes[0]
        self.frame_rate = frame_rate
        self.color = replace(color or ColorSpec.for_rgb(self.height), bit_depth=8, chroma="444")

    def __iter__(self) -> Iterator[Tensor]:
        """Frames `(3, H, W)`."""
        return (read_picture(path).permute(2, 0, 1).float() / 255 for path in self._pictures)


def list_pictures(folder: Path, suffixes: tuple[str, ...] = PICTURE_SUFFIXES) -> list[Path]:
    """The pictures directly in a folder, in the order of the numbers in their names."""
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in suffixes), key=natural_order)


def read_picture(path: Path) -> Tensor:
    """A picture, uint8 `(H, W, 3)` RGB.

    Raises:
        ValueError: where the file is no picture that Pillow reads, or has more than 8 bits a sample.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            # Pillow would cut such samples off at 255
            if picture.mode.startswith(("I", "F")):
                raise ValueError(f"{path} has more than 8 bits a sample, expected 8; convert it first")
            width, height = picture.size
            data = bytearray(picture.convert("RGB").tobytes())
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    return torch.frombuffer(data, dtype=torch.uint8).view(height, width, 3)


def natural_order(path: Path) -> list[tuple[int, str]]:
    """A key that puts frame_10 after frame_9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _png_size(path: Path) -> tuple[int, int]:
    """Width and height from the header of a PNG file."""
    with path.open("rb") as file:
        header = file.read(26)
    if len(header) < 26 or header[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"{path} is not a PNG file")
    if header[24] > 8:
        raise ValueError(f"{path} has {header[24]} bits a sample, expected 8; convert it first")
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")
