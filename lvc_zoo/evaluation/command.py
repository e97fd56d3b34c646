"""`lvc-zoo evaluate`: options, and what the command does with them. Heavy imports wait until it runs."""

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

from ..errors import BitstreamError

if TYPE_CHECKING:
    from rich.console import Console

    from ..color import ColorSpec
    from .conditions import TestCondition
    from .results import Failure, PointResult
    from .sources import Clip

Progress = Callable[[str, int | None], AbstractContextManager[Callable[[], None]]]


def add_arguments(parser: ArgumentParser) -> None:
    """The options; each may stand in a YAML file, too."""
    parser.add_argument("--config", action="config", help="YAML file of these options, such as recipes/evaluate/*.yaml")
    parser.add_argument("--clips", type=str, nargs="+", help="folders of videos and pictures, or such files")
    text = "x264, x265 (:PRESET, :PRESET:TUNE), jpeg, or weights; :intra is their intra network alone"
    parser.add_argument(
        "--codecs", type=str, nargs="+", default=["biecvc-tiny", "biecvc-tiny:intra", "x264"], help=text
    )
    parser.add_argument("--out", type=str, default="evaluation", help="folder for tables, pictures and JSON")
    text = "folder for measured points, which later runs reuse, under other conditions too; by default that of --out"
    parser.add_argument("--work", type=str | None, default=None, help=text)
    parser.add_argument("--name", type=str, default="clips", help="of the condition, for headings")
    parser.add_argument("--frames", type=int, default=33, help="number of frames of each clip; 1 for still pictures")
    choices = ("random_access", "low_delay")
    parser.add_argument("--structure", choices=choices, default=choices[0], help="what the codecs may use")
    text = "frames from one I frame to the next, 1 for I frames alone, none for a single one (low delay)"
    parser.add_argument("--intra-period", type=int | Literal["none"], default=32, help=text)
    parser.add_argument("--max-size", type=str | None, default=None, help="WIDTHxHEIGHT: crop larger clips, centred")
    parser.add_argument("--color-matrix", choices=("bt601", "bt709"), help="of all clips, over what they say")
    parser.add_argument("--color-range", choices=("limited", "full"), help="of all clips; give both or neither")
    parser.add_argument("--q", type=int, nargs="+", default=[0, 21, 42, 63], help="rate points of our codecs")
    parser.add_argument("--crf", type=float, nargs="+", default=[20, 25, 30, 35, 40], help="of x264 and x265")
    parser.add_argument("--jpeg-quality", type=int, nargs="+", default=[10, 30, 50, 70, 90], help="of jpeg")
    parser.add_argument("--ms-ssim", action="store_true", help="measure MS-SSIM, too")
    parser.add_argument("--against", type=str, nargs="+", default=[], help="result.json files to compare with")
    text = "smallest share of the joint PSNR range that two curves must cover for a BD-rate"
    parser.add_argument("--min-overlap", type=float, default=0.25, help=text)
    parser.add_argument("--jobs", type=int, default=1, help="processes that code at the same time")
    parser.add_argument("--threads", type=int | None, default=None, help="of each process")
    parser.add_argument("--keep", action="store_true", help="keep the coded files")
    parser.add_argument("--device", type=str, default="cpu", help="of our codecs: cpu, cuda, ...")


def run(options: Namespace, console: "Console", progress: Progress) -> None:
    """Evaluate, and report.

    Args:
        options: of `add_arguments`.
        console: for tables.
        progress: makes a bar from a text and a total.

    Raises:
        ValueError: for options that do not fit.
        BitstreamError: at the end, where points failed.
    """
    from .conditions import check_same_condition
    from .contenders import make_contender
    from .report import facts, grids, write_report
    from .results import read_result
    from .runner import RunSettings, evaluate
    from .sources import find_clips

    if not options.clips:
        raise ValueError("no clips are named; give --clips FOLDER")
    max_size = None if options.max_size is None else parse_size(options.max_size)
    others = {_label(path): read_result(path) for path in options.against}
    if len(others) < len(options.against):
        raise ValueError(f"--against names {options.against}, two of them in folders of one name; rename one folder")
    clips = find_clips([Path(path) for path in options.clips], options.frames, max_size, _color(options))
    condition = _condition(options, clips, max_size)
    for other in others.values():
        check_same_condition(condition, other.condition)
    contenders = [make_contender(name, condition, options.device) for name in options.codecs]
    settings = RunSettings(jobs=options.jobs, threads=options.threads, keep=options.keep)
    out = Path(options.out)
    with progress("evaluating", len(clips) * sum(len(contender.values) for contender in contenders)) as advance:

        def note(outcome: "PointResult | Failure") -> None:
            print(in_words(outcome), file=sys.stderr, flush=True)
            advance()

        result = evaluate(contenders, clips, condition, Path(options.work or out), settings, note)
    failures = result.failures
    for label, other in others.items():
        result = result.with_codecs_of(other, label)
    paths = write_report(result, out, options.min_overlap)
    for line in facts(result):
        console.print(line, highlight=False, markup=False)
    for grid in grids(result, options.min_overlap):
        console.print(grid.rich())
    console.print("Written: " + ", ".join(str(path) for path in paths[:4]), highlight=False)
    if failures:
        raise BitstreamError(f"{len(failures)} points could not be measured; see {out / 'report.md'}")


def _condition(options: Namespace, clips: "Iterable[Clip]", max_size: tuple[int, int] | None) -> "TestCondition":
    from .conditions import TestCondition

    return TestCondition(
        sequences=tuple(clip.source for clip in clips),
        num_frames=options.frames,
        structure=options.structure,
        intra_period=None if options.intra_period == "none" else options.intra_period,
        max_size=max_size,
        q=tuple(options.q),
        crf=tuple(options.crf),
        jpeg_quality=tuple(options.jpeg_quality),
        ms_ssim=options.ms_ssim,
        name=options.name,
    )


def _color(options: Namespace) -> "ColorSpec | None":
    """What the options say of all clips' colours, None for nothing."""
    from ..color import ColorSpec

    given = (options.color_matrix, options.color_range)
    if None in given and given != (None, None):
        raise ValueError(f"color-matrix is {given[0]} and color-range is {given[1]}; give both or neither")
    return None if given[0] is None else ColorSpec(given[0], full_range=given[1] == "full")


def in_words(outcome: "PointResult | Failure") -> str:
    """One line about a point."""
    from .results import Failure

    place = f"{outcome.codec}, {outcome.clip}, {outcome.parameter} {outcome.value:g}"
    if isinstance(outcome, Failure):
        return f"{place}: FAILED, {outcome.reason}"
    quality = "lossless" if outcome.psnr_rgb_db is None else f"{outcome.psnr_rgb_db:.2f} dB"
    seconds = f"encoded in {outcome.encode_seconds:.1f} s, decoded in {outcome.decode_seconds:.1f} s"
    return f"{place}: {outcome.size_bytes:,} bytes, {outcome.bpp:.4f} bpp, {quality}; {seconds}"


def parse_size(text: str) -> tuple[int, int]:
    """Width and height from "1280x720"."""
    width, separator, height = text.lower().partition("x")
    if not (separator and width.isdecimal() and height.isdecimal()):
        raise ValueError(f"size is {text!r}, expected WIDTHxHEIGHT, for example 1280x720")
    return int(width), int(height)


def _label(path: str) -> str:
    """Folder of a result, which names it better than `result.json` does."""
    return Path(path).resolve().parent.name
