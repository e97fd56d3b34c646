"""The codecs of an evaluation by name, each with its rate points and the freest structure that it may use."""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ..codec.reader import FrameReader
from ..codec.video import DEFAULT_Q, EncodedVideo, VideoCodec
from ..config import to_dict
from ..entropy.tables import table_digest
from ..gop import FrameType, GopStructure, LowDelay
from ..hub import state_digest
from .conditions import TestCondition
from .external import ENCODERS, THREADS, ExternalCodec
from .jpeg import JpegCodec

INTRA = ":intra"
"""Ending of a name that stands for a codec's intra network alone."""
OWN_CODE = ("models", "codec", "entropy", "blocks", "gop.py", "color.py")
"""What decides which bytes a codec of ours writes."""
EXTERNAL_CODE = ("evaluation/external.py", "evaluation/jpeg.py", "data/writers.py", "color.py")
"""What decides which bytes the codecs of others write, besides their libraries."""
MEASURING_CODE = (
    "evaluation/runner.py",
    "evaluation/sources.py",
    "data/readers.py",
    "metrics/distortion.py",
    "color.py",
)
"""What decides which frames a clip gives, and what their decoded quality is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A codec under test.

    Attributes:
        name: what reports call it.
        codec: anything with `encode(reader, path, q, structure)` and `decode(path)`.
        parameter: its setting of the rate: `q`, or the name of another argument of `encode`.
        values: the settings to code at.
        structure: of the frames.
        identity: what its bytes depend on besides the condition: weights, or versions of libraries.
        check: what its decoder checks of a file.
        threads: that it takes, whatever the run gives it; None = those of the run.
    """

    name: str
    codec: Any
    parameter: Literal["q", "crf", "quality"]
    values: tuple[float, ...]
    structure: GopStructure
    identity: str
    check: str = "every frame was decoded from the file"
    threads: int | None = None

    def encode(self, reader: FrameReader, path: Path, value: float) -> EncodedVideo:
        """Encode a clip at one setting."""
        setting: dict[str, float] = {self.parameter: int(value) if self.parameter != "crf" else value}
        result: EncodedVideo = self.codec.encode(reader, path, structure=self.structure, **setting)
        return result


def make_contender(name: str, condition: TestCondition, device: str = "cpu") -> Contender:
    """The codec of a name, loaded.

    Args:
        name: "x264" or "x265", with ":PRESET" for another than medium or ":PRESET:TUNE"; "jpeg"; or weights as
            `from_pretrained` takes them, with ":intra" for their intra network alone. "LABEL=" in front gives another
            name to reports.
        condition: gives rate points, and what structure is allowed.
        device: where our own networks run.

    Raises:
        ValueError: for an unknown name or device, or a codec that cannot code under this condition.
    """
    label, separator, source = name.partition("=")
    if not separator or Path(name.removesuffix(INTRA)).is_dir():
        label = source = name
    external, *effort = source.split(":", 2)
    if external in ENCODERS:
        preset, tune = (*effort, "", "")[:2]
        encoder = ExternalCodec(external, preset or "medium", tune or None)
        return Contender(
            name=label,
            codec=encoder,
            parameter="crf",
            values=condition.crf,
            structure=condition.gop_structure,
            identity=f"{encoder.version}, code {code_digest(EXTERNAL_CODE)[:8]}",
            threads=THREADS,
        )
    if source == "jpeg":
        jpeg = JpegCodec()
        values = tuple(float(quality) for quality in condition.jpeg_quality)
        return Contender(
            name=label,
            codec=jpeg,
            parameter="quality",
            values=values,
            structure=LowDelay(1),
            identity=f"{jpeg.version}, code {code_digest(EXTERNAL_CODE)[:8]}",
        )
    codec = VideoCodec.from_pretrained(source.removesuffix(INTRA))
    try:
        codec.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} is not usable here: {str(error).splitlines()[0]}") from error
    return learned_contender(label, codec, condition, intra_alone=source.endswith(INTRA))


def learned_contender(
    name: str, codec: VideoCodec, condition: TestCondition, *, intra_alone: bool = False
) -> Contender:
    """A codec of ours under test.

    Args:
        name: what reports call it.
        codec: in evaluation mode.
        condition: gives rate points, and what structure is allowed.
        intra_alone: code every frame as an I frame.

    Raises:
        ValueError: for a codec that cannot code under this condition.
    """
    weights = codec.intra if intra_alone else codec
    config = hashlib.sha256(json.dumps(to_dict(codec.config), sort_keys=True).encode()).hexdigest()
    identity = f"{type(codec).__name__}, weights {state_digest(weights.state_dict())[:16]}, config {config[:8]}"
    code = code_digest(OWN_CODE)[:8]
    points = (float(DEFAULT_Q),) if len(codec.lambdas) == 1 else tuple(float(q) for q in condition.q)
    return Contender(
        name=name,
        codec=codec,
        parameter="q",
        values=points,
        structure=LowDelay(1) if intra_alone else _freest_structure(codec, condition),
        identity=f"{identity}, tables {table_digest(weights)[:16]}, code {code}, {codec.device.type}",
        check="every frame was decoded from the file, its payload and its symbols agreeing with their CRCs",
    )


@cache
def code_digest(floors: tuple[str, ...]) -> str:
    """SHA-256 hex of source files, this installation's.

    Args:
        floors: files and folders of the package.
    """
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for floor in floors:
        for path in sorted((root / floor).rglob("*.py")) or [root / floor]:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _freest_structure(codec: VideoCodec, condition: TestCondition) -> GopStructure:
    structure = condition.gop_structure
    if codec.frame_types == {FrameType.I} or condition.intra_period == 1:
        return LowDelay(1)
    if structure.reorder and FrameType.B in codec.frame_types:
        return structure
    if FrameType.P in codec.frame_types:
        return LowDelay(condition.intra_period)
    raise ValueError(
        f"{codec.variant} codes {', '.join(sorted(t.name for t in codec.frame_types))} frames, which the condition's "
        f"structure {condition.structure!r} does not allow; ask for --structure random_access, or leave it out"
    )
