"""What an evaluation measured, as data: points, curves, and the JSON that holds them with their test condition.

`result.json` has the entries

    format        1
    condition     the `TestCondition`, and `manifest_sha256`, the digest of its clips
    codecs        one `CodecResult` each: name, parameter, values, structure, identity, check
    points        one `PointResult` each: a codec on a clip at one setting, with all its frames
    failures      one `Failure` each: a point that could not be measured
    bd_rates      one `report.BDRate` each: percent, or null with a reason
    checks        one `report.QualityCheck` each

and is read back by `read_result`; the last two follow from the points and are not read.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..codec.video import atomic_output
from ..config import strict_from_dict, to_dict
from .conditions import TestCondition, check_same_condition

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameResult:
    """One frame of a point.

    Attributes:
        poc: display index.
        frame_type: "I", "P" or "B".
        layer: temporal layer.
        size_bytes: of its packet.
        psnr_rgb_db: None where the frame is lossless.
    """

    poc: int
    frame_type: str
    layer: int
    size_bytes: int
    psnr_rgb_db: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanesResult:
    """Means over frames of PSNR in dB in the source's own planes; names as in `metrics.YUVPSNR`, None = lossless.

    Codecs that give RGB are taken back to the source's planes, which costs them something near lossless quality (43 to
    46 dB is the most that was seen from 4:2:0); x264 and x265 are compared plane by plane.
    """

    psnr_y: float | None
    psnr_u: float | None
    psnr_v: float | None
    psnr_yuv611: float | None
    psnr_yuv411: float | None
    psnr_yuv_mse411: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PointResult:
    """A codec on a clip at one setting.

    Attributes:
        codec: its name.
        clip: its name.
        parameter: what was set: "q", "crf" or "quality".
        value: to what.
        size_bytes: of the whole file.
        num_frames: how many.
        bpp: bits per pixel, of the whole file.
        psnr_rgb_db: mean over frames; None where a frame is lossless.
        psnr_yuv: None where the source stores RGB.
        ms_ssim: mean over frames of RGB; None where it was not asked for or a side is too short.
        encode_seconds: as measured on `machine`, with reading the source (and, of x264 and x265, their frames' types).
        decode_seconds: as measured on `machine`, to RGB frames or planes.
        machine: processor, threads, version of torch, and how many points were coded at a time.
        check: what the decoder checked.
        frames: in display order.
        ideal_bpp: ideal code length of the coded symbols, bits per pixel, which `bpp` exceeds by what entropy coder and
            container cost; None where the codec does not tell.
    """

    codec: str
    clip: str
    parameter: str
    value: float
    size_bytes: int
    num_frames: int
    bpp: float
    psnr_rgb_db: float | None
    psnr_yuv: PlanesResult | None
    ms_ssim: float | None
    encode_seconds: float
    decode_seconds: float
    machine: str
    check: str
    frames: tuple[FrameResult, ...]
    ideal_bpp: float | None = None

    @property
    def setting(self) -> str:
        """For example "q 21"."""
        return f"{self.parameter} {self.value:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecResult:
    """A codec that was tested; fields as in `contenders.Contender`, the structure in its own words."""

    name: str
    parameter: str
    values: tuple[float, ...]
    structure: str
    identity: str
    check: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A point that could not be measured, and why."""

    codec: str
    clip: str
    parameter: str
    value: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """All points of one test condition.

    Attributes:
        condition: what they were coded and measured under.
        codecs: in the order of tables.
        points: of every codec on every clip, values in the codec's order.
        failures: points that are missing.
    """

    condition: TestCondition
    codecs: tuple[CodecResult, ...]
    points: tuple[PointResult, ...]
    failures: tuple[Failure, ...] = ()

    def points_of(self, codec: str, clip: str) -> list[PointResult]:
        """The points of one codec on one clip."""
        return [point for point in self.points if (point.codec, point.clip) == (codec, clip)]

    def mean_curve(self, codec: str) -> list[tuple[float, float]]:
        """(bpp, PSNR-RGB in dB) of each setting, mean over clips; settings that lack a clip are left out."""
        points = [point for point in self.points if point.codec == codec]
        curve = []
        for value in next(known.values for known in self.codecs if known.name == codec):
            group = [(p.bpp, p.psnr_rgb_db) for p in points if p.value == value and p.psnr_rgb_db is not None]
            if len(group) == len(self.condition.sequences):
                rates, psnrs = zip(*group, strict=True)
                curve.append((sum(rates) / len(group), sum(psnrs) / len(group)))
        return curve

    def with_codecs_of(self, other: "EvaluationResult", label: str) -> "EvaluationResult":
        """This result with another's codecs beside its own, as "<label>/<name>".

        Raises:
            ValueError: where the conditions differ, naming the field.
        """
        check_same_condition(self.condition, other.condition)
        codecs = [replace(codec, name=f"{label}/{codec.name}") for codec in other.codecs]
        points = [replace(point, codec=f"{label}/{point.codec}") for point in other.points]
        failures = [replace(failure, codec=f"{label}/{failure.codec}") for failure in other.failures]
        return replace(
            self,
            codecs=(*self.codecs, *codecs),
            points=(*self.points, *points),
            failures=(*self.failures, *failures),
        )

    def to_json(self) -> dict[str, Any]:
        """What `read_result` reads."""
        return {
            "format": FORMAT,
            "condition": self.condition.to_json(),
            **{name: [to_dict(item) for item in getattr(self, name)] for name in ("codecs", "points", "failures")},
        }


def file_name(name: str) -> str:
    """A name that every file system takes.

    Example:
        >>> file_name("biecvc-tiny:intra")
        'biecvc-tiny_intra'
    """
    return "".join(c if c.isalnum() or c in "-._" else "_" for c in name)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file that appears when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_output(path) as file:
        file.write(json.dumps(data, indent=1, allow_nan=False).encode() + b"\n")


def read_result(path: str | os.PathLike[str]) -> EvaluationResult:
    """The result of a `result.json`.

    Raises:
        ValueError: for rate-distortion data without its test condition, whoever wrote them, and for a damaged file.
    """
    data = json.loads(Path(path).read_text())
    if not isinstance(data, dict) or "condition" not in data:
        raise ValueError(
            f"{path} has no entry 'condition'; rate-distortion data without its test condition is not compared: code "
            "the clips with `lvc-zoo evaluate`, which writes one"
        )
    if data.get("format") != FORMAT:
        raise ValueError(f"{path} is of format {data.get('format')!r}, expected {FORMAT}; evaluate again")
    known = {field.name: data.get(field.name, ()) for field in fields(EvaluationResult)}
    condition = {key: value for key, value in data["condition"].items() if key != "manifest_sha256"}
    result = strict_from_dict(EvaluationResult, {**known, "condition": condition}, where=str(path))
    digest = data["condition"].get("manifest_sha256")
    if digest != result.condition.manifest_sha256:
        raise ValueError(f"{path}: manifest_sha256 is {digest}, but its clips give another; the file was altered")
    return result


def dcvc_json(result: EvaluationResult, codec: str) -> dict[str, Any]:
    """One codec's points in the layout that the DCVC family's scripts read: class, sequence, rate index.

    Bits of single types count packets, those of all frames every byte of the file.
    """
    sequences = {}
    for clip in result.condition.sequences:
        points = sorted(result.points_of(codec, clip.name), key=lambda point: point.bpp)
        rates = {f"{index:03d}": _dcvc_point(point, clip.width * clip.height) for index, point in enumerate(points)}
        sequences[clip.name] = rates
    return {result.condition.name: sequences}


def _dcvc_point(point: PointResult, num_pixels: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"frame_pixel_num": num_pixels}
    for kind, types in (("i", "I"), ("p", "PB")):
        group = [frame for frame in point.frames if frame.frame_type in types]
        entry[f"{kind}_frame_num"] = len(group)
        bits = 8 * sum(frame.size_bytes for frame in group)
        entry[f"ave_{kind}_frame_bpp"] = bits / (len(group) * num_pixels) if group else 0
        psnrs = [frame.psnr_rgb_db for frame in group if frame.psnr_rgb_db is not None]
        entry[f"ave_{kind}_frame_psnr"] = sum(psnrs) / len(psnrs) if psnrs else 0
    entry |= {"ave_all_frame_bpp": point.bpp, "ave_all_frame_psnr": point.psnr_rgb_db}
    if point.ms_ssim is not None:
        entry["ave_all_frame_msssim"] = point.ms_ssim
    if point.psnr_yuv is not None:
        entry |= {f"ave_all_frame_psnr_{plane}": getattr(point.psnr_yuv, f"psnr_{plane}") for plane in "yuv"}
    entry["frame_bpp"] = [8 * frame.size_bytes / num_pixels for frame in point.frames]
    entry["frame_psnr"] = [frame.psnr_rgb_db for frame in point.frames]
    entry["frame_type"] = [int(frame.frame_type != "I") for frame in point.frames]
    return entry


def compressai_json(result: EvaluationResult, codec: CodecResult) -> dict[str, Any]:
    """One codec's mean curve in CompressAI's layout; `bitrate` is in kbit/s, at each clip's frame rate."""
    clips = {clip.name: clip for clip in result.condition.sequences}
    columns: dict[str, list[float | None]] = {}
    for value in codec.values:
        group = [point for point in result.points if (point.codec, point.value) == (codec.name, value)]
        if len(group) < len(clips):
            continue
        kbps = [_kbps(point, clips[point.clip].frame_rate) for point in group]
        row = {codec.parameter: value, "bpp": _mean([p.bpp for p in group]), "bitrate": _mean(kbps)}
        row |= {"psnr-rgb": _mean([p.psnr_rgb_db for p in group]), "ms-ssim-rgb": _mean([p.ms_ssim for p in group])}
        for key, number in row.items():
            columns.setdefault(key, []).append(number)
    description = f"{codec.identity}; {codec.structure}; {result.condition.num_frames} frames, lvc_zoo evaluate"
    return {"name": codec.name, "description": description, "results": columns}


def _kbps(point: PointResult, frame_rate: str) -> float:
    numerator, _, denominator = frame_rate.partition("/")
    return 8 * point.size_bytes * float(numerator) / float(denominator or 1) / point.num_frames / 1000


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
