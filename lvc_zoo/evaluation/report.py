"""What a result says: tables, BD-rates, checks of quality, pictures. Only figures measured here, never a paper's."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.table import Table

from ..config import to_dict
from ..metrics import RDCurve, bd_rate
from .results import CodecResult, EvaluationResult, PointResult, compressai_json, dcvc_json, file_name, write_json

METHOD: Final = "pchip"
MIN_OVERLAP = 0.25
"""Smallest share of the joint PSNR range that both curves must cover for a BD-rate.

CHOICE: less than `metrics.bd_rate` asks for, because CRF 20 to 40 spans three times the range of a small codec's q; the
range that both cover stands beside each BD-rate.
"""
MEAN_CURVE, MEAN_OF_CLIPS = "mean curve", "mean of clips"
UNDEFINED = "-"
DOTS_AN_INCH = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class BDRate:
    """Rate of a codec against another at equal PSNR-RGB.

    Attributes:
        anchor: the reference.
        test: the codec that is judged.
        clip: name of a clip; "mean curve" is of the curves averaged over clips, "mean of clips" the mean of the clips'
            BD-rates, all of which must be defined.
        percent: negative means a saving; None where it is undefined.
        reason: why it is undefined, None otherwise.
        shared_db: lowest and highest PSNR that both curves cover, where it is defined.
        method: interpolation.
        min_overlap: share of the joint PSNR range that both curves must cover.
    """

    anchor: str
    test: str
    clip: str
    percent: float | None
    reason: str | None = None
    shared_db: tuple[float, float] | None = None
    method: str = METHOD
    min_overlap: float = MIN_OVERLAP


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityCheck:
    """Whether a codec's rate points on a clip behave.

    Attributes:
        codec: its name.
        clip: its name.
        rises: mean PSNR rises strictly with each better setting.
        span_db: from the worst point's mean PSNR to the best's.
        largest_drop_db: how far the worst frame of any point lies below that point's mean.
        drop_setting: the point of that frame.
        drop_poc: display index of that frame.
    """

    codec: str
    clip: str
    rises: bool
    span_db: float
    largest_drop_db: float
    drop_setting: str
    drop_poc: int


def bd_rate_table(result: EvaluationResult, min_overlap: float = MIN_OVERLAP) -> list[BDRate]:
    """BD-rates of each codec against each other one, by clip, of the mean curves, and their mean."""
    clips = [clip.name for clip in result.condition.sequences]
    curves = {codec.name: _curves(result, codec.name) for codec in result.codecs}
    rows = []
    for anchor, test in ((a, t) for a in curves for t in curves if a != t):
        by_clip = [_bd_rate(curves, anchor, test, clip, min_overlap) for clip in clips]
        percents = [row.percent for row in by_clip if row.percent is not None]
        missing = [row.clip for row in by_clip if row.percent is None]
        mean = sum(percents) / len(percents) if not missing else None
        reason = f"undefined on {', '.join(missing)}" if missing else None
        rows += [
            *by_clip,
            replace(by_clip[0], clip=MEAN_OF_CLIPS, percent=mean, reason=reason, shared_db=None),
            _bd_rate(curves, anchor, test, MEAN_CURVE, min_overlap),
        ]
    return rows


def _curves(result: EvaluationResult, codec: str) -> dict[str, list[tuple[float, float]]]:
    """(bpp, dB) by clip; lossless points have no place on a curve."""
    curves = {
        clip.name: [
            (point.bpp, point.psnr_rgb_db)
            for point in result.points_of(codec, clip.name)
            if point.psnr_rgb_db is not None
        ]
        for clip in result.condition.sequences
    }
    return {**curves, MEAN_CURVE: result.mean_curve(codec)}


def _bd_rate(
    curves: dict[str, dict[str, list[tuple[float, float]]]], anchor: str, test: str, clip: str, min_overlap: float
) -> BDRate:
    row = BDRate(anchor=anchor, test=test, clip=clip, percent=None, min_overlap=min_overlap)
    try:
        first, second = (RDCurve(name=name, points=tuple(curves[name][clip])) for name in (anchor, test))
        percent = bd_rate(first, second, method=METHOD, min_overlap=min_overlap)
        ends = [(curve.points[0][1], curve.points[-1][1]) for curve in (first, second)]
    except ValueError as error:
        return replace(row, reason=str(error))
    shared = max(low for low, _ in ends), min(high for _, high in ends)
    return replace(row, percent=percent, shared_db=shared)


def quality_checks(result: EvaluationResult) -> list[QualityCheck]:
    """Checks of every codec on every clip; points of lossless frames are left out."""
    checks = []
    for codec, clip in ((codec, clip) for codec in result.codecs for clip in result.condition.sequences):
        # a constant rate factor is lower for more quality
        is_reversed = codec.parameter == "crf"
        points = sorted(result.points_of(codec.name, clip.name), key=lambda point: point.value, reverse=is_reversed)
        known = [(point, point.psnr_rgb_db) for point in points if point.psnr_rgb_db is not None]
        if not known:
            continue
        psnrs = [psnr for _, psnr in known]
        drop, setting, poc = max(
            (psnr - frame.psnr_rgb_db, point.setting, frame.poc)
            for point, psnr in known
            for frame in point.frames
            if frame.psnr_rgb_db is not None
        )
        checks.append(
            QualityCheck(
                codec=codec.name,
                clip=clip.name,
                rises=all(low < high for low, high in pairwise(psnrs)),
                span_db=max(psnrs) - min(psnrs),
                largest_drop_db=drop,
                drop_setting=setting,
                drop_poc=poc,
            )
        )
    return checks


# ---- tables


class Grid(NamedTuple):
    """A table for terminals and for Markdown.

    Attributes:
        title: its heading.
        columns: their names; the first is text, the others numbers.
        rows: cells as text.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def rich(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title, title_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a file."""
        lines = [self.columns, ("---", *("---:" for _ in self.columns[1:])), *self.rows]
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"### {self.title}\n\n{body}\n"


def grids(result: EvaluationResult, min_overlap: float = MIN_OVERLAP) -> Iterator[Grid]:
    """Points by clip, BD-rates against each anchor, checks."""
    for clip in result.condition.sequences:
        yield _points_grid(result, clip.name, f"{clip.name}, {clip.width}x{clip.height}")
    yield from _bd_grids(result, bd_rate_table(result, min_overlap))
    rows = [
        (
            f"{check.codec}, {check.clip}",
            "yes" if check.rises else "NO",
            f"{check.span_db:.2f}",
            f"{check.largest_drop_db:.2f} ({check.drop_setting}, frame {check.drop_poc})",
        )
        for check in quality_checks(result)
    ]
    columns = ("codec and clip", "PSNR rises", "span dB", "worst frame, dB below its point's mean")
    yield Grid("Checks", columns, rows)


def _points_grid(result: EvaluationResult, clip: str, title: str) -> Grid:
    columns = ("codec", "setting", "bytes", "bpp", "PSNR-RGB dB", "psnr_yuv611 dB", "MS-SSIM", "enc s", "dec s")
    rows = []
    for codec in result.codecs:
        for point in result.points_of(codec.name, clip):
            yuv611 = None if point.psnr_yuv is None else point.psnr_yuv.psnr_yuv611
            quality = (_number(point.psnr_rgb_db), _number(yuv611), _number(point.ms_ssim, 4))
            seconds = (f"{point.encode_seconds:.1f}", f"{point.decode_seconds:.1f}")
            rows.append((codec.name, point.setting, f"{point.size_bytes:,}", f"{point.bpp:.4f}", *quality, *seconds))
    return Grid(title, columns, rows)


def _number(value: float | None, digits: int = 2) -> str:
    return UNDEFINED if value is None else f"{value:.{digits}f}"


def _bd_grids(result: EvaluationResult, rows: Sequence[BDRate]) -> Iterator[Grid]:
    percent = {(row.anchor, row.test, row.clip): row.percent for row in rows}
    clips = [*(clip.name for clip in result.condition.sequences), MEAN_OF_CLIPS, MEAN_CURVE]
    for anchor in result.codecs:
        others = [codec.name for codec in result.codecs if codec.name != anchor.name]
        if others:
            cells = [(c, *(_percent(percent[anchor.name, other, c]) for other in others)) for c in clips]
            yield Grid(f"BD-rate against {anchor.name}, PSNR-RGB, {METHOD}", ("clip", *others), cells)


def _percent(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:+.1f} %"


def facts(result: EvaluationResult) -> list[str]:
    """The condition, the codecs, and how times were measured, in words."""
    condition = result.condition
    period = "one I frame" if condition.intra_period is None else f"intra period {condition.intra_period}"
    size = "" if condition.max_size is None else f", at most {condition.max_size[0]}x{condition.max_size[1]}"
    machines: dict[str, list[str]] = {machine: [] for machine in sorted({point.machine for point in result.points})}
    for codec, machine in dict.fromkeys((point.codec, point.machine) for point in result.points):
        machines[machine].append(codec)
    return [
        f"Condition '{condition.name}': {len(condition.sequences)} clips{size}, {condition.num_frames} frames, "
        f"{condition.structure}, {period}; clips' SHA-256 {condition.manifest_sha256[:16]}",
        f"PSNR over RGB, {condition.averaging}; rate counts {condition.rate}; all figures measured on decoded files",
        *(f"{codec.name}: {codec.identity}; {codec.structure}; {codec.check}" for codec in result.codecs),
        *(f"Seconds of the whole clip, {', '.join(codecs)}: {machine}" for machine, codecs in machines.items()),
        *(f"FAILED {f.codec}, {f.clip}, {f.parameter} {f.value:g}: {f.reason}" for f in result.failures),
    ]


def report_json(result: EvaluationResult, min_overlap: float = MIN_OVERLAP) -> dict[str, Any]:
    """What `result.json` holds, see `results`."""
    bd_rates = [to_dict(row) for row in bd_rate_table(result, min_overlap)]
    checks = [to_dict(check) for check in quality_checks(result)]
    return {**result.to_json(), "bd_rates": bd_rates, "checks": checks}


def write_report(result: EvaluationResult, out: Path, min_overlap: float = MIN_OVERLAP) -> list[Path]:
    """Write `result.json`, `report.md`, `rd.png`, `frames.png`, and `exports` for other programs.

    Args:
        result: the measurements.
        out: folder, made if missing.
        min_overlap: see `BDRate`.

    Returns:
        The files.
    """
    write_json(out / "result.json", report_json(result, min_overlap))
    text = [f"# {result.condition.name}\n", *(f"* {fact}" for fact in facts(result)), ""]
    text += [grid.markdown() for grid in grids(result, min_overlap)]
    (out / "report.md").write_text("\n".join(text))
    paths = [out / "result.json", out / "report.md"]
    if result.points:
        paths += [draw_curves(result, out / "rd.png"), draw_frames(result, out / "frames.png")]
    for codec in result.codecs:
        name = file_name(codec.name)
        exports = {"dcvc": dcvc_json(result, codec.name), "compressai": compressai_json(result, codec)}
        for layout, data in exports.items():
            paths.append(out / "exports" / f"{name}.{layout}.json")
            write_json(paths[-1], data)
    return paths


# ---- pictures


def draw_curves(result: EvaluationResult, path: Path) -> Path:
    """PSNR over bpp: a panel a clip, and the mean over clips; the condition above them."""
    from matplotlib.figure import Figure

    panels = [MEAN_CURVE, *(clip.name for clip in result.condition.sequences)]
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for codec in result.codecs:
        curves = _curves(result, codec.name)
        for panel, name in zip(axes, panels, strict=False):
            curve = sorted(curves[name])
            panel.plot([rate for rate, _ in curve], [psnr for _, psnr in curve], marker="o", ms=4, label=codec.name)
    for panel, name in zip(axes, panels, strict=False):
        panel.set(title=name, xlabel="bits per pixel", ylabel="PSNR-RGB (dB)", xscale="log")
        panel.xaxis.set_major_formatter("{x:g}")
        # 2 and 5 of each decade: a curve may span less than one, and all nine would overlap
        panel.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:.0e}"[0] in "25" else "")
        panel.grid(alpha=0.3, which="both")
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    axes[0].legend(fontsize=8)
    figure.suptitle(facts(result)[0])
    figure.savefig(path, dpi=DOTS_AN_INCH)
    return path


def draw_frames(result: EvaluationResult, path: Path) -> Path:
    """PSNR and bits of each frame, a row a clip, at one point of each codec; see `points_side_by_side`."""
    from matplotlib.figure import Figure

    clips = [clip.name for clip in result.condition.sequences]
    figure = Figure(figsize=(12, 2.6 * len(clips)), layout="constrained")
    axes = figure.subplots(len(clips), 2, squeeze=False)
    for (quality, bits), clip in zip(axes, clips, strict=True):
        for point in points_side_by_side(result, clip):
            pocs = [frame.poc for frame in point.frames]
            label = f"{point.codec}, {point.setting}, {point.bpp:.3f} bpp"
            psnrs = [math.nan if frame.psnr_rgb_db is None else frame.psnr_rgb_db for frame in point.frames]
            quality.plot(pocs, psnrs, marker=".", label=label)
            bits.plot(pocs, [8 * frame.size_bytes for frame in point.frames], marker=".", drawstyle="steps-mid")
        quality.set(title=clip, xlabel="frame", ylabel="PSNR-RGB (dB)")
        quality.legend(fontsize=7)
        for panel in (quality, bits):
            panel.xaxis.get_major_locator().set_params(integer=True)
        bits.set(title=clip, xlabel="frame", ylabel="bits", yscale="log")
    figure.suptitle(facts(result)[0])
    figure.savefig(path, dpi=DOTS_AN_INCH)
    return path


def points_side_by_side(result: EvaluationResult, clip: str) -> Iterator[PointResult]:
    """For each codec its point of the rate nearest to the middle point of the first codec on this clip."""
    known: Iterable[CodecResult] = result.codecs
    groups = [group for codec in known if (group := result.points_of(codec.name, clip))]
    if not groups:
        return
    by_rate = sorted(groups[0], key=lambda point: point.bpp)
    middle = by_rate[len(by_rate) // 2].bpp
    for group in groups:
        yield min(group, key=lambda point: abs(math.log(point.bpp / middle)))
