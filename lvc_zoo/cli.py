"""The `lvc-zoo` command. Each subcommand imports what it needs when it runs, so that `--help` and errors are quick."""

import json
import sys
import time
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from jsonargparse import ArgumentParser, Namespace

from .errors import BitstreamError
from .evaluation.command import add_arguments as _evaluate_arguments
from .evaluation.command import parse_size

if TYPE_CHECKING:
    from rich.console import Console

    from .codec.container import Header
    from .codec.reader import FrameReader
    from .codec.video import VideoCodec
    from .color import ColorSpec
    from .evaluation.bench import BenchReport
    from .gop import GopStructure
    from .training.bench import TrainingReport


# ---- encode and decode


def encode(options: Namespace) -> None:
    """Encode a video into an .lvc file."""
    from . import VideoCodec
    from .evaluation.bench import Machine

    reader = _open_reader(options)
    codec = _to_device(VideoCodec.from_pretrained(options.model), options.device)
    structure = _structure(codec, options.intra_period)
    start = time.perf_counter()
    with _progress("encoding", reader.num_frames) as advance:
        result = codec.encode(reader, options.output, options.q, structure, progress=lambda _: advance())
    seconds = time.perf_counter() - start
    rate_kbps = 8 * result.size_bytes * float(reader.frame_rate) / result.num_frames / 1000
    print(
        f"{options.output}: {result.num_frames} frames of {reader.width}x{reader.height}, {result.size_bytes:,} bytes, "
        f"{result.bpp:.4f} bpp, {rate_kbps:.1f} kbit/s"
    )
    print(f"read and encoded at {result.num_frames / seconds:.2f} frames/s on {Machine.of(codec)}")


def decode(options: Namespace) -> None:
    """Decode an .lvc file into a video; the frames before a damaged one are kept under a name with ".partial"."""
    from .data import open_writer
    from .evaluation.bench import Machine
    from .models import load_codec_for, read_header

    header = read_header(options.input)
    frames = _parse_range(options.frames)
    codec = _to_device(load_codec_for(options.input, options.model), options.device)
    output = _Output.at(options.output)
    size = {"width": header.width, "height": header.height}
    damage = None
    start = time.perf_counter()
    with (
        _progress("decoding", len(frames) if frames else _num_frames(options.input)) as advance,
        open_writer(output.partial, **size, frame_rate=header.frame_rate, color=_color_of(header)) as writer,
    ):
        try:
            for x_hat in codec.decode(options.input, frames):
                writer.write(x_hat)
                advance()
        except BitstreamError as error:
            if not writer.num_frames:
                raise
            damage = error
    if damage is not None:
        raise BitstreamError(f"{damage}; {writer.num_frames} frames before it are in {output.partial}", poc=damage.poc)
    output.finish()
    seconds = time.perf_counter() - start
    print(f"{options.output}: {writer.num_frames} frames of {header.width}x{header.height}")
    print(f"decoded and written at {writer.num_frames / seconds:.2f} frames/s on {Machine.of(codec)}")


class _Output(NamedTuple):
    """Where a decoded video goes; it stands under `partial` until it is complete."""

    final: Path
    partial: str

    @classmethod
    def at(cls, name: str) -> "_Output":
        path = Path(name)
        if path.suffix and not name.endswith("/"):
            return cls(path, str(path.with_name(f"{path.stem}.partial{path.suffix}")))
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise ValueError(f"{path} exists and is not an empty folder; remove it or choose another name")
        return cls(path, f"{path}.partial/")

    def finish(self) -> None:
        if self.final.is_dir():
            self.final.rmdir()
        Path(self.partial).replace(self.final)


def _structure(codec: "VideoCodec", intra_period: str | None) -> "GopStructure":
    """The codec's own structure, with another distance of I frames where one is given."""
    from .gop import LowDelay

    structure: Any = codec.default_structure
    if intra_period is None:
        return structure
    if intra_period != "none" and not intra_period.isdecimal():
        raise ValueError(f"intra period is {intra_period!r}, expected a number of frames, or none for a single I frame")
    if intra_period == "none" and not isinstance(structure, LowDelay):
        raise ValueError(
            f"intra period is none, but {codec.variant} codes between two I frames; give a power of two, or take a "
            "low-delay model"
        )
    return replace(structure, intra_period=None if intra_period == "none" else int(intra_period))


def _open_reader(options: Namespace) -> "FrameReader":
    from .data import open_video

    size = None if options.size is None else parse_size(options.size)
    rate = None if options.frame_rate is None else Fraction(options.frame_rate)

    def opened(color: "ColorSpec | None") -> "FrameReader":
        return open_video(
            options.input,
            frames=options.frames,
            start=options.start,
            color=color,
            size=size,
            pixel_format=options.pixel_format,
            frame_rate=rate,
        )

    if options.color_matrix is None and options.color_range is None:
        return opened(None)
    return opened(_override_color(options, opened))


def _override_color(options: Namespace, opened: "Callable[[ColorSpec | None], FrameReader]") -> "ColorSpec":
    """The colour that the options name, completed by what the file says."""
    from .color import ColorSpec

    if options.color_matrix and options.color_range:
        return ColorSpec(options.color_matrix, full_range=options.color_range == "full")
    if options.input == "-":
        raise ValueError("standard input is read once; give --color-matrix and --color-range together")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        color = opened(None).color
    if options.color_matrix:
        return replace(color, matrix=options.color_matrix, assumed=False)
    return replace(color, full_range=options.color_range == "full")


def _color_of(header: "Header") -> "ColorSpec":
    from .color import ColorSpec

    return ColorSpec(
        header.matrix,
        full_range=header.full_range,
        bit_depth=header.bit_depth,
        chroma=header.chroma,
        assumed=header.color_assumed,
    )


# ---- info and list


def info(options: Namespace) -> None:
    """Show the header of an .lvc file and what each frame takes; --bits decodes it for the bits by part."""
    from .codec.container import StreamReader, coded_frames

    rows: list[dict[str, Any]] = []
    damage = None
    with Path(options.input).open("rb") as file:
        reader = StreamReader(file)
        try:
            for plan, packet in coded_frames(reader):
                sizes = {"payload_bytes": len(packet.payload), "framing_bytes": packet.framing}
                row = {"poc": plan.poc, "type": plan.frame_type.name, "layer": plan.layer, "q": packet.q}
                rows.append(row | sizes)
        except BitstreamError as error:
            damage = error
    if options.bits and damage is None:
        _add_bits(rows, options)
    size_bytes = Path(options.input).stat().st_size
    header = _describe(reader.header) | {"header_bytes": reader.header_bytes}
    if options.json:
        print(json.dumps({"header": header, "size_bytes": size_bytes, "frames": rows}, indent=2))
    else:
        _show_info(header, size_bytes, rows)
    if damage is not None:
        raise damage


def _add_bits(rows: list[dict[str, Any]], options: Namespace) -> None:
    from .models import load_codec_for

    codec = load_codec_for(options.input, options.model)
    with _progress("decoding", len(rows)) as advance:
        for row, (_, bits) in zip(rows, codec.decode_bits(options.input), strict=True):
            row["bits"] = {part: round(value, 1) for part, value in bits.items()}
            advance()


def _describe(header: "Header") -> dict[str, Any]:
    """The header, JSON-ready."""
    data = {name: getattr(header, name) for name in header.__slots__}
    digests = {name: data[name].hex() for name in ("weights_digest", "table_digest")}
    return data | digests | {"frame_rate": str(header.frame_rate), "structure": header.structure.to_config()}


def _show_info(header: dict[str, Any], size_bytes: int, rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    console = _console(sys.stdout)
    table = Table.grid(padding=(0, 2))
    for key, value in header.items():
        table.add_row(key, str(value))
    table.add_row("size_bytes", f"{size_bytes:,}")
    if rows:
        pixels = len(rows) * header["width"] * header["height"]
        table.add_row("frames", f"{len(rows)}, {8 * size_bytes / pixels:.4f} bpp with everything")
    console.print(table)
    parts = [part for part in ("motion", "frame", "hyper") if any("bits" in row for row in rows)]
    keys = ("poc", "type", "layer", "q", "payload_bytes", "framing_bytes")
    console.print("Frames in coding order")
    frames = Table()
    for column in (*keys, *(f"{part} bits" for part in parts)):
        frames.add_column(column, justify="right")
    for row in rows:
        bits = [f"{row['bits'].get(part, 0):.0f}" for part in parts]
        frames.add_row(*(str(row[key]) for key in keys), *bits)
    console.print(frames)


def list_command(options: Namespace) -> None:
    """List the models by name, with their weights."""
    from rich.table import Table

    from .hub import bundled_names
    from .models import codec_class, create_model, list_models

    rows = [
        {
            "name": name,
            "class": codec_class(name)[0].__name__,
            "parameters": sum(p.numel() for p in create_model(name).parameters()),
            "weights": "bundled" if name in bundled_names() else "none",
        }
        for name in list_models(options.pattern)
    ]
    if not rows:
        raise ValueError(f"no model matches {options.pattern!r}; known are {', '.join(list_models())}")
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    table = Table()
    for column in rows[0]:
        table.add_column(column, justify="right" if column == "parameters" else "left")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    _console(sys.stdout).print(table)


# ---- bench, convert, demo


def bench(options: Namespace) -> None:
    """Measure a model: MACs and parameters by module, seconds by stage, cost of the entropy coder, growth of cells."""
    report = _training_report(options) if options.training or options.checkpointing else _model_report(options)
    if options.json:
        print(json.dumps(report.to_json(), indent=2))
        return
    console = _console(sys.stdout)
    for item in report.tables():
        console.print(item, highlight=False)


def _training_report(options: Namespace) -> "TrainingReport":
    from .training.bench import ClipShape, measure_training

    width, height = (128, 128) if options.size is None else parse_size(options.size)
    if width != height:
        raise ValueError(f"size is {options.size}, but training clips are square; give one such as 128x128")
    shape = ClipShape(num_frames=options.frames, crop=width)
    wanted = (options.training, options.checkpointing)
    return measure_training(options.model, shape, _parse_overrides(options.set), *wanted)


def _model_report(options: Namespace) -> "BenchReport":
    from .evaluation.bench import BenchRequest, run_bench

    codec, weights = _codec_to_measure(options.model, _parse_overrides(options.set))
    chosen = {name: options[name] for name in ("complexity", "stages", "coder", "recurrence")}
    request = BenchRequest(
        **(chosen if any(chosen.values()) else {}),
        picture=None if options.out is None else Path(options.out),
        size=None if options.size is None else parse_size(options.size),
        frames=options.frames,
    )
    return run_bench(_to_device(codec, options.device), options.model, weights, request)


def _codec_to_measure(model: str, overrides: dict[str, Any]) -> "tuple[VideoCodec, str]":
    """The codec and what its weights are."""
    from . import VideoCodec, create_model, list_models
    from .hub import bundled_names

    is_source = model not in list_models() and ("/" in model or Path(model).is_dir())
    if is_source and overrides:
        raise ValueError(f"--set changes the shape of a model, and {model} has trained weights; name a variant")
    if is_source or (model in bundled_names() and not overrides):
        return VideoCodec.from_pretrained(model), f"weights: {model}"
    return create_model(model, **overrides).eval(), "weights: untrained"


def convert(options: Namespace) -> None:
    """Convert official checkpoints into a weights folder."""
    from .models.checkpoint import convert_checkpoint

    codec = convert_checkpoint(options.variant, options.input, options.intra, overrides=_parse_overrides(options.set))
    codec.save_pretrained(options.output)
    count = sum(p.numel() for p in codec.parameters())
    print(f"{options.output}: {options.variant} with {count:,} parameters, every name accounted for")


def demo(options: Namespace) -> None:
    """Encode a clip, decode it in a fresh process, and compare with x264 at the nearest size."""
    from .evaluation.demo import DemoRequest, run_demo

    clip = None if options.clip is None else Path(options.clip)
    request = DemoRequest(clip=clip, frames=options.frames, q=options.q, model=options.model, out=Path(options.out))
    console = _console(sys.stdout)
    with _progress("demo", None) as advance:
        report = run_demo(request, advance)
    for item in report.tables():
        console.print(item, highlight=False)


def evaluate(options: Namespace) -> None:
    """Code clips with several codecs under one test condition; tables, BD-rates, pictures and JSON of what came out."""
    from .evaluation.command import run

    run(options, _console(sys.stdout), _progress)


def data(options: Namespace) -> int:
    """Prepare, check or optimize footage to train or test on; exit code 1 where something is wrong with it."""
    from .data import prepare

    given = options[options.action]
    if options.action == "optimize":
        shard_bytes, is_held_out = given.shard_mib << 20, given.held_out
        count = prepare.optimize(given.folder, given.out, given.encoding, shard_bytes, is_held_out=is_held_out)
        print(f"{given.out}: {count} shards; name it in a recipe as any folder of footage")
        return 0
    if options.action == "prepare":
        problems = prepare.prepare(given.what, given.source, given.out)
        lines = [f"problem: {problem}" for problem in problems] or ["every file is there, with its checksum"]
    else:
        report = prepare.check_folder(given.folder, given.manifest)
        problems, lines = report.problems, list(report.lines())
    print("\n".join(lines))
    return 1 if problems else 0


# ---- options


def _parse_range(text: str | None) -> range | None:
    """Display indices from "10:20", the end excluded."""
    if text is None:
        return None
    start, separator, stop = text.partition(":")
    if not (separator and start.isdecimal() and stop.isdecimal()):
        raise ValueError(f"frames are {text!r}, expected START:STOP with STOP excluded, for example 10:20")
    return range(int(start), int(stop))


def _parse_overrides(settings: Sequence[str]) -> dict[str, Any]:
    """Config overrides from KEY=VALUE, values as JSON."""
    overrides: dict[str, Any] = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator:
            raise ValueError(f"--set {setting!r} has no value; expected KEY=VALUE, for example gating=false")
        try:
            overrides[key] = json.loads(value)
        except json.JSONDecodeError:
            overrides[key] = value
    return overrides


def _to_device(codec: "VideoCodec", device: str) -> "VideoCodec":
    import torch

    try:
        return codec.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} is not usable here: {str(error).splitlines()[0]}") from error


def _num_frames(path: str) -> int | None:
    """Number of frames by the trailer, None without one."""
    from .codec.container import StreamReader

    with Path(path).open("rb") as file:
        try:
            return sum(entry.frames for entry in StreamReader(file).index())
        except BitstreamError:
            return None


def _console(stream: TextIO) -> "Console":
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else 120)


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[], None]]:
    """A bar on standard error, nothing where that is not a terminal; yields what to call after each step."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console(sys.stderr), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


# ---- the parser


def build_parser() -> ArgumentParser:
    """The command's parser, with one subcommand per function of `COMMANDS`."""
    from . import __version__

    parser = ArgumentParser(
        prog="lvc-zoo",
        description="Learned video compression: real bitstreams from PyTorch models. To train, "
        f"{', '.join(TRAINING)} with --config RECIPE run LightningCLI; each has a --help of its own.",
        exit_on_error=False,
        version=__version__,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subcommands(dest="command", required=True)
    for name, (action, add_arguments) in COMMANDS.items():
        command = ArgumentParser(description=action.__doc__, exit_on_error=False)
        commands.add_subcommand(name, command, help=(action.__doc__ or "").split(";")[0].rstrip("."))
        add_arguments(command)
    return parser


def _encode_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("input", type=str, help="video file, .yuv file, folder of PNG pictures, or - for Y4M on stdin")
    parser.add_argument("output", type=str, help="the .lvc file")
    parser.add_argument(
        "--model", type=str, default="biecvc-tiny", help="bundled name, folder or owner/repo[@revision]"
    )
    parser.add_argument("--q", type=int, default=32, help="rate point, 0 (smallest file) to 63 (best quality)")
    parser.add_argument("--frames", type=int | None, default=None, help="encode at most so many frames")
    parser.add_argument("--start", type=int, default=0, help="index of the first frame")
    period = "frames from one I frame to the next, none for a single one (low delay); by default the model's own"
    parser.add_argument("--intra-period", type=str | None, default=None, help=period)
    parser.add_argument("--size", type=str | None, default=None, help="WIDTHxHEIGHT of a .yuv file")
    parser.add_argument("--pixel-format", type=str | None, default=None, help="of a .yuv file, such as yuv420p10le")
    parser.add_argument("--frame-rate", type=str | None, default=None, help="frames per second, 25 or 30000/1001")
    parser.add_argument("--color-matrix", choices=("bt601", "bt709"), help="over what the file says")
    parser.add_argument("--color-range", choices=("limited", "full"), help="over what the file says")
    _add_device(parser)


def _decode_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("input", type=str, help="the .lvc file")
    parser.add_argument("output", type=str, help=".y4m, .yuv, .mp4 or .mkv file, or a folder of PNG pictures")
    parser.add_argument("--frames", type=str | None, default=None, help="START:STOP, decode these display indices only")
    _add_model(parser)
    _add_device(parser)


def _info_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("input", type=str, help="the .lvc file")
    parser.add_argument("--bits", action="store_true", help="decode, to show the ideal code length by part")
    _add_model(parser)
    _add_json(parser)


def _list_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("pattern", type=str, nargs="?", default="*", help="glob pattern of names")
    _add_json(parser)


def _bench_arguments(parser: ArgumentParser) -> None:
    text = "variant, or weights: folder or owner/repo[@revision]; for --training a variant or a recipe"
    parser.add_argument("model", type=str, help=text)
    parser.add_argument("--complexity", action="store_true", help="MACs and parameters; without a choice, everything")
    parser.add_argument("--stages", action="store_true", help="seconds a frame by stage")
    parser.add_argument("--coder", action="store_true", help="bytes and time of the entropy coder on a small frame")
    text = "magnitude of ConvLSTM cells over the frames after a single I frame; only where asked for"
    parser.add_argument("--recurrence", action="store_true", help=text)
    text = "frames/s of training steps, and what limits them; alone, or with --checkpointing"
    parser.add_argument("--training", action="store_true", help=text)
    text = "peak memory of a variant's training step with and without activation checkpointing"
    parser.add_argument("--checkpointing", action="store_true", help=text)
    parser.add_argument("--out", type=str | None, default=None, help="plot of --recurrence, a .png file")
    text = "WIDTHxHEIGHT; 1280x720 for MACs, 352x288 for what runs, 128x128 for training"
    parser.add_argument("--size", type=str | None, default=None, help=text)
    parser.add_argument("--frames", type=int, default=9, help="number of frames that run")
    _add_set(parser)
    _add_device(parser)
    _add_json(parser)


def _convert_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("variant", type=str, help="model of the checkpoint, such as dcvc-dc-intra")
    parser.add_argument("input", type=str, help="the checkpoint, .pth or .safetensors")
    parser.add_argument("output", type=str, help="folder for the weights")
    text = "the second checkpoint, of models whose I frames were released apart (dcvc-dc, dcvc-tcm)"
    parser.add_argument("--intra", type=str | None, default=None, help=text)
    _add_set(parser)


def _demo_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--clip", type=str | None, default=None, help="a video of yours; a real clip by default")
    parser.add_argument("--frames", type=int, default=33, help="number of frames")
    parser.add_argument("--q", type=int, default=32, help="rate point, 0 to 63")
    parser.add_argument(
        "--model", type=str, default="biecvc-tiny", help="bundled name, folder or owner/repo[@revision]"
    )
    parser.add_argument("--out", type=str, default="demo_out", help="folder for files and picture")


def _data_arguments(parser: ArgumentParser) -> None:
    def command(name: str, text: str) -> ArgumentParser:
        added = ArgumentParser(description=text, exit_on_error=False)
        commands.add_subcommand(name, added, help=text)
        return added

    commands = parser.add_subcommands(dest="action", required=True)
    added = command("prepare", "put a data set in its place; write checksums, or compare with those written before")
    names = "vimeo90k, bvi-aom, uvg, mcl-jcv, hevc-b, hevc-c, hevc-d, hevc-e, or a folder"
    added.add_argument("what", type=str, help=names)
    added.add_argument("--source", type=str | None, default=None, help="where the files of a named set are now")
    added.add_argument("--out", type=str | None, default=None, help="folder for links to them")
    added = command("check", "read every frame; count sizes, lengths and cuts, name what is damaged, compare checksums")
    added.add_argument("folder", type=str, help="of videos, stills, folders of frames, or shards")
    added.add_argument("--manifest", type=str | None, default=None, help="another one than the folder's own")
    added = command("optimize", "turn a folder into LitData's shards, for clusters and object stores")
    added.add_argument("folder", type=str, help="of videos, stills, folders of frames, or Vimeo-90K's archive")
    added.add_argument("out", type=str, help="a new folder")
    added.add_argument("--encoding", choices=("raw", "png"), default="raw", help="png is smaller, but slower to read")
    added.add_argument("--shard-mib", type=int, default=64, help="aim for the size of a shard in MiB")
    added.add_argument("--held-out", action="store_true", help="of Vimeo-90K's archive the test list")


def _add_model(parser: ArgumentParser) -> None:
    text = "weights: bundled name, folder or owner/repo[@revision]; found by the header if bundled or from the Hub"
    parser.add_argument("--model", type=str | None, default=None, help=text)


def _add_set(parser: ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="config entry of the variant")


def _add_device(parser: ArgumentParser) -> None:
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda, cuda:1, ...")


def _add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


TRAINING = ("fit", "validate", "test", "predict")
COMMANDS: dict[str, tuple[Callable[[Namespace], int | None], Callable[[ArgumentParser], None]]] = {
    "encode": (encode, _encode_arguments),
    "decode": (decode, _decode_arguments),
    "info": (info, _info_arguments),
    "list": (list_command, _list_arguments),
    "bench": (bench, _bench_arguments),
    "convert": (convert, _convert_arguments),
    "demo": (demo, _demo_arguments),
    "evaluate": (evaluate, _evaluate_arguments),
    "data": (data, _data_arguments),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; None takes the process's.

    Returns:
        Exit code: 0; 1 for a damaged stream or data; 2 for anything else that the user can mend; 130 for Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # anywhere on the line, not only before the subcommand
    is_debug = "--debug" in arguments
    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            given = [a for a in arguments if a != "--debug"]
            if given[:1] and given[0] in TRAINING:
                # LightningCLI has a parser of its own
                from .training.command import run

                run(given)
                return 0
            options = build_parser().parse_args(given)
            return COMMANDS[options.command][0](options[options.command]) or 0
        except (ArgumentError, BitstreamError, ModuleNotFoundError, OSError, ValueError) as error:
            if is_debug:
                raise
            print(f"lvc-zoo: error: {_one_line(error)}", file=sys.stderr)
            return 1 if isinstance(error, BitstreamError) else 2
        except KeyboardInterrupt:
            print("lvc-zoo: interrupted", file=sys.stderr)
            return 130
    return 0


def _one_line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; pip install 'lvc_zoo[train,eval,demo]' brings what this command needs"
    return " ".join(str(error).split())


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"lvc-zoo: warning: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
