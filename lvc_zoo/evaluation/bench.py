"""What a codec costs: MACs by module, seconds by stage, bytes and time of the entropy coder; always with where."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from ..blocks.padding import pad_to_multiple
from ..codec.container import Packet
from ..codec.numeric import coding_mode
from ..codec.picture import CodedFrame
from ..codec.reader import TensorReader
from ..codec.sequence import code_sequence
from ..codec.video import DEFAULT_Q, VideoCodec
from ..color import ColorSpec
from ..data import demo_clip, open_video
from ..entropy import rans
from ..entropy.coder import LatentCoder, SymbolReader, SymbolWriter
from ..entropy.distributions import Distribution
from ..gop import FramePlan, FrameType, GopStructure, RandomAccess
from ..machine import processor_name
from .complexity import Complexity, measure_complexity, padded_720p
from .recurrence import CellGrowth, draw_cell_growth, growth_table, measure_cell_growth

NUMERIC_MODE = "eager float32, channels_last, batch 1"
SMALL_FRAME = (288, 352)
REPEATS = 5
"""Times that a small frame's symbols are coded; the median counts."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a time was measured.

    Attributes:
        device: what ran the networks.
        processor: name of the CPU.
        threads: of PyTorch.
        torch: its version.
        numeric_mode: of the coding path.
    """

    device: str
    processor: str
    threads: int
    torch: str
    numeric_mode: str = NUMERIC_MODE

    @classmethod
    def of(cls, codec: VideoCodec) -> "Machine":
        """This machine, with the device that holds `codec`."""
        device = codec.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return cls(name, processor_name(), torch.get_num_threads(), torch.__version__)

    def __str__(self) -> str:
        where = self.device if self.device != "cpu" else "CPU"
        return f"{where} ({self.processor}), {self.threads} threads, torch {self.torch}, {self.numeric_mode}"


@dataclass(frozen=True, slots=True)
class StageTime:
    """Median seconds a frame of one type.

    Attributes:
        frame_type: "I", "P" or "B".
        frames: number of frames in the median.
        encode_s: whole encoding step.
        encode_coder_s: of which entropy coding.
        decode_s: whole decoding step.
        decode_coder_s: of which entropy decoding.
    """

    frame_type: str
    frames: int
    encode_s: float
    encode_coder_s: float
    decode_s: float
    decode_coder_s: float


@dataclass(frozen=True, slots=True)
class CoderCost:
    """What one small frame pays besides its ideal code length.

    Attributes:
        frame_type: "I", "P" or "B".
        num_symbols: coded symbols.
        payload_bytes: entropy-coded bytes.
        framing_bytes: of the packet around them.
        flush_bytes: payload less the ideal code length under the integer tables.
        encode_ms: rANS encoding of the frame's symbols, models at hand.
        decode_ms: rANS decoding.
    """

    frame_type: str
    num_symbols: int
    payload_bytes: int
    framing_bytes: int
    flush_bytes: float
    encode_ms: float
    decode_ms: float


def bench_clip(num_frames: int, size: tuple[int, int]) -> Tensor:
    """The demo clip scaled to fill `size` and cropped; a drifting texture where it is not installed.

    Args:
        num_frames: number of frames.
        size: height and width.

    Returns:
        `(T, 3, H, W)` in [0, 1].
    """
    try:
        frames = torch.stack(list(open_video(demo_clip(), frames=num_frames, color=ColorSpec("bt601"))))
    except FileNotFoundError:
        x = torch.arange(640.0).view(1, 1, 1, -1) + 2 * torch.arange(float(num_frames)).view(-1, 1, 1, 1)
        y = torch.arange(272.0).view(1, 1, -1, 1) + torch.tensor([0.0, 20.0, 40.0]).view(1, 3, 1, 1)
        frames = 0.5 + 0.25 * torch.sin(x / 9) + 0.25 * torch.sin(y / 7 + x / 40)
    factor = max(size[0] / frames.shape[-2], size[1] / frames.shape[-1])
    scaled = [max(want, round(have * factor)) for want, have in zip(size, frames.shape[-2:], strict=True)]
    frames = F.interpolate(frames, size=scaled, mode="bilinear", antialias=True, align_corners=False)
    return frames[:, :, : size[0], : size[1]].clamp(0, 1)


# ---- stage times


class _Clock:
    """Seconds, with the device's queue drained before each reading."""

    def __init__(self, device: torch.device):
        self._device = device

    def __call__(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class _TimedCoder:
    """A coder whose own time is counted; what it gives is unchanged."""

    def __init__(self, coder: SymbolWriter | SymbolReader, clock: _Clock):
        self._coder, self._clock = coder, clock
        self.seconds = 0.0

    def code(self, y: Tensor | None, distribution: Distribution, *, name: str) -> Tensor:
        return self._timed(lambda: self._coder.code(y, distribution, name=name))

    def finish(self) -> Any:
        return self._timed(self._coder.finish)

    def _timed(self, action: Callable[[], Any]) -> Any:
        start = self._clock()
        result = action()
        self.seconds += self._clock() - start
        return result


class _Frames:
    """Padded frames as the loop's source; nothing at the decoder."""

    def __init__(self, codec: VideoCodec, clip: Tensor):
        padded = pad_to_multiple(clip, codec.pad_multiple, codec.pad_mode).to(codec.device)
        self._frames = [x.unsqueeze(0).contiguous(memory_format=torch.channels_last) for x in padded]
        self.size = (padded.shape[-2], padded.shape[-1])
        self.is_decoder = False

    def __call__(self, poc: int) -> Tensor | None:
        return None if self.is_decoder else self._frames[poc]


def bench_structure(codec: VideoCodec, num_frames: int) -> GopStructure:
    """The codec's own structure; random access with a period that shows every type within `num_frames`."""
    structure = codec.default_structure
    if isinstance(structure, RandomAccess):
        return RandomAccess(min(structure.intra_period, 1 << max((num_frames - 1).bit_length() - 1, 1)))
    return structure


def measure_stages(codec: VideoCodec, clip: Tensor, q: int = 32) -> list[StageTime]:
    """Seconds a frame by type, encoder and decoder, the entropy coder's share apart; one run warms up.

    Args:
        codec: in evaluation mode.
        clip: `(T, 3, H, W)` in [0, 1].
        q: rate point.

    Returns:
        One entry a frame type.
    """
    plans = bench_structure(codec, len(clip)).plans(len(clip))
    source, clock = _Frames(codec, clip), _Clock(codec.device)
    _code_timed(codec, source, plans[:3], clock, q)
    times = _code_timed(codec, source, plans, clock, q)
    result = []
    for kind in FrameType:
        rows = [row for plan, row in zip(plans, times, strict=True) if plan.frame_type is kind]
        if rows:
            result.append(StageTime(kind.name, len(rows), *(median(column) for column in zip(*rows, strict=True))))
    return result


def _code_timed(
    codec: VideoCodec, source: _Frames, plans: list[FramePlan], clock: _Clock, q: int
) -> list[tuple[float, float, float, float]]:
    """For each frame the seconds of encoder, its coder, decoder, its coder."""
    models, rate = rans.ModelCache(), codec.rate_of(q)
    payloads: dict[int, tuple[bytes, int]] = {}

    def run(coder_for: Callable[[FramePlan], LatentCoder], note: Callable[[FramePlan, Any], None]) -> list[Any]:
        rows = []
        with coding_mode(codec):
            frames = code_sequence(codec, source, plans, coder_for, rate)
            for plan in plans:
                start = clock()
                coder: Any = next(frames).coder
                note(plan, coder.finish())
                rows.append((clock() - start, coder.seconds))
        return rows

    source.is_decoder = False
    written = run(
        lambda _: _TimedCoder(SymbolWriter(models), clock), lambda plan, result: payloads.update({plan.poc: result})
    )
    source.is_decoder = True
    read = run(lambda plan: _TimedCoder(SymbolReader(*payloads[plan.poc], models), clock), lambda plan, result: None)
    return [(*a, *b) for a, b in zip(written, read, strict=True)]


# ---- the coder alone


class _Recorder:
    """A writer that keeps its blocks for coding them again."""

    def __init__(self, models: rans.ModelCache):
        self._seen: list[tuple[rans.IntArray, rans.IntArray]] = []
        self.writer = SymbolWriter(models, lambda _, index, symbols, y_hat: self._seen.append((index, symbols)))
        self.blocks: list[rans.Block] = []

    def code(self, y: Tensor | None, distribution: Distribution, *, name: str) -> Tensor:
        y_hat = self.writer.code(y, distribution, name=name)
        self.blocks.append(rans.Block(distribution.tables, *self._seen[-1]))
        return y_hat


def measure_coder(codec: VideoCodec, clip: Tensor) -> list[CoderCost]:
    """Bytes and milliseconds that the entropy coder adds to a frame at the lowest q, the worst frame of each type.

    Args:
        codec: in evaluation mode.
        clip: `(T, 3, H, W)` in [0, 1], small.
    """
    q = DEFAULT_Q if len(codec.lambdas) == 1 else 0
    plans = bench_structure(codec, len(clip)).plans(len(clip))
    models, rate = rans.ModelCache(), codec.rate_of(q)
    costs: dict[str, list[CoderCost]] = {}
    with coding_mode(codec):
        for frame in code_sequence(codec, _Frames(codec, clip), plans, lambda _: _Recorder(models), rate):
            cost = _coder_cost(frame, models, q)
            costs.setdefault(cost.frame_type, []).append(cost)
    return [max(rows, key=lambda row: row.encode_ms + row.decode_ms) for rows in costs.values()]


def _coder_cost(frame: CodedFrame, models: rans.ModelCache, q: int) -> CoderCost:
    recorder: Any = frame.coder
    blocks: list[rans.Block] = recorder.blocks
    payload, checksum = recorder.writer.finish()
    ideal = sum(recorder.writer.bits.values()) / 8

    def decode() -> None:
        decoder = rans.Decoder(payload, models)
        for block in blocks:
            decoder.decode(block.tables, block.index)

    return CoderCost(
        frame_type=frame.plan.frame_type.name,
        num_symbols=sum(len(block.symbols) for block in blocks),
        payload_bytes=len(payload),
        framing_bytes=Packet(frame.plan.frame_type, q, payload, checksum).framing,
        flush_bytes=len(payload) - ideal,
        encode_ms=_median_ms(lambda: rans.encode(blocks, models)),
        decode_ms=_median_ms(decode),
    )


def _median_ms(action: Callable[[], object]) -> float:
    def once() -> float:
        start = time.perf_counter()
        action()
        return 1000 * (time.perf_counter() - start)

    once()
    return median(once() for _ in range(REPEATS))


# ---- reports


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All that was measured; parts that were not asked for are None.

    Attributes:
        model: variant or source of the weights.
        weights: what the times were measured with, "" without times.
        complexity_size: width and height that MACs are counted at.
        time_size: width and height of the timed frames.
        complexity: by network.
        machine: where the times come from.
        stages: seconds by stage.
        coder: cost of a small frame.
        recurrence: growth of ConvLSTM cells.
    """

    model: str
    weights: str = ""
    complexity_size: tuple[int, int] | None = None
    time_size: tuple[int, int] | None = None
    complexity: Mapping[str, Complexity] | None = None
    machine: Machine | None = None
    stages: list[StageTime] | None = None
    coder: list[CoderCost] | None = None
    recurrence: CellGrowth | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, parts that were not measured left out."""
        data = {key: value for key, value in asdict(self).items() if value is not None}
        if self.complexity is not None:
            data["complexity"] = complexity_json(self.complexity)
        return data

    def tables(self) -> Iterator[Table | str]:
        """What a terminal shows."""
        if self.complexity is not None and self.complexity_size is not None:
            yield from complexity_tables(self.complexity, self.complexity_size)
        if self.machine is not None and self.time_size is not None:
            yield f"Measured on {self.machine}; {self.weights}; {'x'.join(map(str, self.time_size))}"
        if self.stages is not None:
            yield "Seconds a frame (median after a warm-up)"
            yield _stage_table(self.stages)
        if self.coder is not None:
            yield "The entropy coder alone, lowest q, the slowest frame of each type"
            yield _coder_table(self.coder)
        if self.recurrence is not None:
            yield f"ConvLSTM cells over P frames after a single I frame, q = {self.recurrence.q}"
            yield growth_table(self.recurrence)


def complexity_json(networks: Mapping[str, Complexity]) -> dict[str, Any]:
    """Totals first, then each network by module; kMAC per pixel, attention apart."""
    return {
        "parameters": _total_parameters(networks),
        "kmac_per_pixel": {
            name: {column: macs["total"] for column, macs in part.columns.items()} for name, part in networks.items()
        },
        "attention_kmac_per_pixel": {name: part.attention for name, part in networks.items()},
        "notes": {name: part.notes for name, part in networks.items()},
        "modules": {
            name: {"parameters": part.parameters, "kmac_per_pixel": part.columns} for name, part in networks.items()
        },
    }


def complexity_tables(networks: Mapping[str, Complexity], size: tuple[int, int]) -> Iterator[Table | str]:
    """One table a network, then the codec's parameters."""
    for name, part in networks.items():
        yield f"{name}: kMAC/pixel at {size[0]}x{size[1]}, encoder and decoder"
        table = Table()
        table.add_column("module")
        for column in ("parameters", *part.columns):
            table.add_column(column, justify="right")
        for row, count in part.parameters.items():
            values = [macs.get(row, 0.0) for macs in part.columns.values()]
            if row == "total":
                table.add_section()
            if count or any(abs(value) > 1e-6 for value in values):
                table.add_row(row, f"{count:,}", *(f"{value:.2f}" for value in values))
        if any(value >= 0.01 for value in part.attention.values()):
            table.add_row("attention, not in the total", "", *(f"{value:.2f}" for value in part.attention.values()))
        yield table
        yield "\n".join(f"  {column}: {note}" for column, note in part.notes.items())
    parts = " + ".join(f"{name} {part.parameters['total']:,}" for name, part in networks.items())
    yield f"Parameters of the codec: {_total_parameters(networks):,} ({parts})"


def _total_parameters(networks: Mapping[str, Complexity]) -> int:
    return sum(part.parameters["total"] for part in networks.values())


def _stage_table(stages: Iterable[StageTime]) -> Table:
    return _table(
        ("type", "frames", "encode", "of which coder", "decode", "of which coder"),
        (
            (
                s.frame_type,
                s.frames,
                *(f"{x:.4f}" for x in (s.encode_s, s.encode_coder_s, s.decode_s, s.decode_coder_s)),
            )
            for s in stages
        ),
    )


def _coder_table(costs: Iterable[CoderCost]) -> Table:
    return _table(
        ("type", "symbols", "payload bytes", "framing bytes", "flush bytes", "encode ms", "decode ms"),
        (
            (
                c.frame_type,
                f"{c.num_symbols:,}",
                c.payload_bytes,
                c.framing_bytes,
                *(f"{x:.2f}" for x in (c.flush_bytes, c.encode_ms, c.decode_ms)),
            )
            for c in costs
        ),
    )


def _table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    table = Table()
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*map(str, row))
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRequest:
    """What to measure.

    Attributes:
        complexity: MACs and parameters.
        stages: seconds by stage.
        coder: cost of a small frame.
        recurrence: growth of ConvLSTM cells.
        picture: where that growth is plotted, a .png file.
        size: width and height; None is 1280x720, padded as the codec pads, for MACs, and 352x288 for what runs.
        frames: number of frames that run.
    """

    complexity: bool = True
    stages: bool = True
    coder: bool = True
    recurrence: bool = False
    picture: Path | None = None
    size: tuple[int, int] | None = None
    frames: int = 9

    def __post_init__(self) -> None:
        """Check what goes together."""
        if self.frames < 1:
            raise ValueError(f"frames is {self.frames}, expected at least 1")
        if self.picture is not None and not self.recurrence:
            raise ValueError(f"nothing to draw in {self.picture}, which is for the plot of --recurrence; add that")


def run_bench(codec: VideoCodec, model: str, weights: str, request: BenchRequest) -> BenchReport:
    """Measure what is asked for.

    Args:
        codec: in evaluation mode, on the device to measure.
        model: its name in the report.
        weights: what its weights are, in words.
        request: what to measure.
    """
    parts: dict[str, Any] = {}
    if request.stages or request.coder or request.recurrence:
        size = SMALL_FRAME if request.size is None else (request.size[1], request.size[0])
        parts |= {"weights": weights, "machine": Machine.of(codec), "time_size": (size[1], size[0])}
        if request.stages:
            parts["stages"] = measure_stages(codec, bench_clip(request.frames, size))
        if request.coder:
            parts["coder"] = measure_coder(codec, bench_clip(min(request.frames, 5), size))
        if request.recurrence:
            growth = measure_cell_growth(codec, TensorReader(bench_clip(request.frames, size)))
            parts["recurrence"] = growth
            if request.picture is not None:
                draw_cell_growth(growth, request.picture, f"{model} ({weights}), {size[1]}x{size[0]}")
    if request.complexity:
        width, height = request.size or padded_720p(codec)[::-1]
        # last: it moves the codec to the meta device
        parts |= {"complexity_size": (width, height), "complexity": measure_complexity(codec, (height, width))}
    return BenchReport(model, **parts)
