"""RGB frames into files: Y4M, raw YUV, playable video, folders of PNG pictures. A file appears when it is complete."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import torch
from av.video.codeccontext import VideoCodecContext
from torch import Tensor

from ..codec.video import atomic_output
from ..color import ColorSpec, rgb_to_planes
from ..errors import nearest_names

CONTAINERS = {".mp4": "mp4", ".mkv": "matroska"}
SUFFIXES = (".y4m", ".yuv", *CONTAINERS)
# ITU-T H.273 code points
MATRIX_TAGS = {"bt601": 6, "bt709": 1}
RANGE_TAGS = {False: 1, True: 2}
PLAYABLE_CRF = 10
Sink = Callable[[Tensor], None]


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """Size, rate and colour of the frames to write."""

    width: int
    height: int
    frame_rate: Fraction
    color: ColorSpec


class FrameWriter:
    """What `open_writer` gives: takes frames one by one.

    Attributes:
        num_frames: frames written so far.
    """

    def __init__(self, sink: Sink, form: VideoFormat) -> None:
        self._sink = sink
        self._shape = (3, form.height, form.width)
        self.num_frames = 0

    def write(self, frame: Tensor) -> None:
        """Append a frame `(3, H, W)`, float RGB; values outside [0, 1] are clamped."""
        if tuple(frame.shape) != self._shape or not frame.is_floating_point():
            raise ValueError(
                f"frame {self.num_frames} is {frame.dtype} of shape {tuple(frame.shape)}, expected floating point "
                f"{self._shape} in [0, 1]"
            )
        self._sink(frame.detach().cpu())
        self.num_frames += 1


def open_writer(
    path: str | os.PathLike[str],
    *,
    width: int,
    height: int,
    frame_rate: Fraction | float,
    color: ColorSpec,
) -> AbstractContextManager[FrameWriter]:
    """A context manager that gives a `FrameWriter` and, when the block ends well, puts the result in place.

    After an exception, or with no frame written, nothing is left. By the suffix of `path`:

    * `.y4m`, `.yuv`: the planes that `color` describes, nothing lost but the rounding. Y4M has no place for the matrix.
    * `.mp4`, `.mkv`: H.264 at high quality, 8 bit, for playing; 4:2:0, or 4:4:4 where a side is odd.
    * none, or a `/` at the end: a new folder of 8-bit RGB pictures, `frame_00000.png` and so on.

    Args:
        path: where the result shall be.
        width: columns of a frame.
        height: lines of a frame.
        frame_rate: frames per second.
        color: how to store colour.

    Raises:
        ValueError: for an unknown suffix, or a folder that is not empty.
        FileNotFoundError: where the folder to write into does not exist.
    """
    form = VideoFormat(width, height, Fraction(frame_rate).limit_denominator(1001), color)
    is_folder = str(path).endswith(("/", os.sep))
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"folder {path.parent} does not exist; create it first")
    if is_folder or not suffix:
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise ValueError(f"{path} exists and is not an empty folder; remove it or choose another name")
        return _writer(_png_sink(path), form)
    if suffix not in SUFFIXES:
        raise ValueError(
            f"suffix {suffix!r} of {path.name} is unknown" + nearest_names(suffix, (*SUFFIXES, "a folder"))
        )
    return _writer(_player_sink(path, form) if suffix in CONTAINERS else _planar_sink(path, form), form)


@contextmanager
def _writer(opened: AbstractContextManager[Sink], form: VideoFormat) -> Iterator[FrameWriter]:
    with opened as sink:
        writer = FrameWriter(sink, form)
        yield writer
        if not writer.num_frames:
            raise ValueError("no frame was written; a video needs at least one")


@contextmanager
def _planar_sink(path: Path, form: VideoFormat) -> Iterator[Sink]:
    """Y4M and raw files."""
    with atomic_output(path) as file:
        marker = b""
        if path.suffix.lower() == ".y4m":
            marker = b"FRAME\n"
            file.write(_y4m_header(form))

        def write(frame: Tensor) -> None:
            planes = rgb_to_planes(frame, form.color)
            file.write(marker + b"".join(plane.contiguous().numpy().tobytes() for plane in planes))

        yield write


def _y4m_header(form: VideoFormat) -> bytes:
    color, rate = form.color, form.frame_rate
    chroma = color.chroma
    if color.bit_depth == 10:
        chroma += "p10"
    elif chroma == "420":
        # names the site of `color.downsample_chroma`
        chroma += "mpeg2"
    return (
        f"YUV4MPEG2 W{form.width} H{form.height} F{rate.numerator}:{rate.denominator} Ip A1:1 C{chroma} "
        f"XCOLORRANGE={'FULL' if color.full_range else 'LIMITED'}\n"
    ).encode()


@contextmanager
def _player_sink(path: Path, form: VideoFormat) -> Iterator[Sink]:
    """H.264 in a container."""
    chroma = "444" if form.width % 2 or form.height % 2 else "420"
    spec = replace(form.color, bit_depth=8, chroma=chroma)
    with (
        atomic_output(path) as file,
        av.open(file, "w", format=CONTAINERS[path.suffix.lower()]) as container,
    ):
        stream = container.add_stream("libx264", rate=form.frame_rate, options={"crf": str(PLAYABLE_CRF)})
        stream.width, stream.height, stream.pix_fmt = form.width, form.height, f"yuv{chroma}p"
        tag_color(stream.codec_context, spec)

        def write(frame: Tensor) -> None:
            container.mux(stream.encode(video_frame(*rgb_to_planes(frame, spec), spec)))

        yield write
        container.mux(stream.encode(None))


def tag_color(context: VideoCodecContext, spec: ColorSpec) -> None:
    """Write matrix and range into an encoder's settings.

    Primaries and transfer stay unsaid: they were never known.
    """
    context.colorspace, context.color_range = MATRIX_TAGS[spec.matrix], RANGE_TAGS[spec.full_range]


def video_frame(y: Tensor, u: Tensor, v: Tensor, spec: ColorSpec) -> av.VideoFrame:
    """Planes of 8 bit as FFmpeg's frame, tagged; even sides in 4:2:0, any in 4:4:4."""
    height, width = y.shape
    codes = torch.cat((y.flatten(), u.flatten(), v.flatten()))
    codes = codes.view(3, height, width) if spec.chroma == "444" else codes.view(height * 3 // 2, width)
    result = av.VideoFrame.from_ndarray(codes.numpy(), format=f"yuv{spec.chroma}p")
    result.colorspace, result.color_range = MATRIX_TAGS[spec.matrix], RANGE_TAGS[spec.full_range]
    return result


@contextmanager
def _png_sink(path: Path) -> Iterator[Sink]:
    """A folder of pictures."""
    from PIL import Image

    partial = path.with_name(path.name + ".part")
    if partial.exists():
        raise ValueError(f"{partial} is in the way, left by a run that was cut off; remove it")
    partial.mkdir()
    number = 0

    def write(frame: Tensor) -> None:
        nonlocal number
        codes = (frame.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
        Image.fromarray(codes.numpy()).save(partial / f"frame_{number:05d}.png")
        number += 1

    try:
        yield write
        if path.exists():
            path.rmdir()
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
