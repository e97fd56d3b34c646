"""Test conditions: everything that must agree before two results may be compared."""

import hashlib
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from ..codec.video import MAX_Q
from ..color import ColorSpec
from ..config import to_dict
from ..gop import GopStructure, LowDelay, RandomAccess

RECORDED = ("name", "q", "crf", "jpeg_quality", "ms_ssim")
"""Fields of a condition that are stored beside a result and need not agree.

CHOICE: rate points are among them, because a BD-rate compares curves over the range of quality that both cover.
"""
RATE_POINTS = {"q": (0, MAX_Q), "crf": (0, 51), "jpeg_quality": (1, 95)}
"""Lowest and highest of each."""
CROP_MULTIPLE = 16
"""A clip cropped to a largest size keeps sides of this multiple, so that no codec here pads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceClip:
    """One test sequence, as the codecs get it.

    Attributes:
        name: file name without its suffix.
        sha256: of the file; of a folder of pictures, of the lines that `sha256sum` prints for its files in their order.
        width: after cropping.
        height: after cropping.
        frame_rate: frames per second, as a fraction.
        stored_as: whether the source stores YCbCr or RGB.
        matrix: "bt601" or "bt709".
        full_range: of luma.
        bit_depth: 8 or 10.
        chroma: "420", "422" or "444".
        color_assumed: the source did not say its matrix.
    """

    name: str
    sha256: str
    width: int
    height: int
    frame_rate: str
    stored_as: Literal["yuv", "rgb"]
    matrix: str
    full_range: bool
    bit_depth: int
    chroma: str
    color_assumed: bool

    @property
    def color(self) -> ColorSpec:
        """How the source stores colour."""
        return ColorSpec(
            self.matrix,
            full_range=self.full_range,
            bit_depth=self.bit_depth,
            chroma=self.chroma,
            assumed=self.color_assumed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TestCondition:
    """What was coded and how it was measured; stored with every result.

    The structure is what a codec **may** use. One that codes less freely is held to the same condition: P frames alone,
    or I frames alone, where `random_access` would allow B frames.

    Attributes:
        sequences: the clips, in order of name.
        num_frames: frames of each, from the first.
        structure: "random_access" allows frames to be reordered, "low_delay" does not.
        intra_period: distance of two I frames, 1 = I frames alone, None = only the first one.
        max_size: largest width and height; larger clips are cropped about their centre.
        metric: quality of BD-rates. PSNR over the three channels of RGB in [0, 1], neither side rounded to 8 bit.
        averaging: how frames make a clip's number.
        color: how YCbCr becomes RGB.
        crop: what happens at the borders.
        rate: which bytes count.
        q: rate points of our codecs, 0..63, higher is better.
        crf: constant rate factors of x264 and x265.
        jpeg_quality: settings of JPEG.
        ms_ssim: whether MS-SSIM is measured, too.
        name: free, for headings.

    Raises:
        ValueError: for an empty list of clips, two of one name, or a setting out of range.
    """

    __test__: ClassVar[bool] = False  # pytest takes a class of this name for a test

    sequences: tuple[SourceClip, ...]
    num_frames: int = 33
    structure: Literal["random_access", "low_delay"] = "random_access"
    intra_period: int | None = 32
    max_size: tuple[int, int] | None = None
    metric: str = "psnr-rgb"
    averaging: str = "mean over frames of each frame's value"
    color: str = "by each source's matrix and range; chroma bicubic, sited as in MPEG-2"
    crop: str = f"even sides, or multiples of {CROP_MULTIPLE} with a largest size; padding is cropped before measuring"
    rate: str = "every byte of the file"
    q: tuple[int, ...] = (0, 21, 42, 63)
    crf: tuple[float, ...] = (20.0, 25.0, 30.0, 35.0, 40.0)
    jpeg_quality: tuple[int, ...] = (10, 30, 50, 70, 90)
    ms_ssim: bool = False
    name: str = "clips"

    def __post_init__(self) -> None:
        """Check what would otherwise fail after hours."""
        names = [clip.name for clip in self.sequences]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"sequences are {names}, expected at least one and no name twice; rename the files")
        if self.num_frames < 1:
            raise ValueError(f"num_frames is {self.num_frames}, expected at least 1")
        if self.structure not in ("random_access", "low_delay"):
            raise ValueError(f"structure is {self.structure!r}, expected 'random_access' or 'low_delay'")
        for name, (low, high) in RATE_POINTS.items():
            values = getattr(self, name)
            if not values or len(set(values)) != len(values) or not all(low <= value <= high for value in values):
                raise ValueError(
                    f"{name} is {list(values)}, expected at least one rate point of {low} to {high} and none twice"
                )
        if self.structure == "random_access" and self.intra_period is None:
            raise ValueError("random access needs an intra period; give a power of two, or structure low_delay")
        _ = self.gop_structure  # checks the intra period

    @property
    def gop_structure(self) -> GopStructure:
        """The freest structure that a codec may use."""
        if self.structure == "random_access" and self.intra_period is not None and self.intra_period > 1:
            return RandomAccess(self.intra_period)
        return LowDelay(self.intra_period)

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the clips' own digests and names, in the form that `sha256sum` prints."""
        lines = "".join(f"{clip.sha256}  {clip.name}\n" for clip in self.sequences)
        return hashlib.sha256(lines.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """All fields and the digest of the clips, JSON-ready."""
        return {**to_dict(self), "manifest_sha256": self.manifest_sha256}

    def of_clip(self, name: str) -> dict[str, Any]:
        """What a measurement of one clip depends on besides its codec, JSON-ready.

        Clips that come or go leave it as it is. The structure is left out, because what a codec makes of it counts.
        """
        shared = (*RECORDED, "structure", "intra_period")
        settings = {key: value for key, value in to_dict(self).items() if key not in shared}
        clip = next(clip for clip in self.sequences if clip.name == name)
        return {**settings, "sequences": [to_dict(clip)], "ms_ssim": self.ms_ssim}


def check_same_condition(first: TestCondition, second: TestCondition) -> None:
    """Refuse to compare results of different conditions.

    Raises:
        ValueError: naming the first field that differs, and both values.
    """
    for key in (field.name for field in fields(TestCondition) if field.name not in RECORDED):
        values = [getattr(condition, key) for condition in (first, second)]
        if values[0] != values[1]:
            shown = _sequence_difference(first, second) if key == "sequences" else f"{values[0]!r} and {values[1]!r}"
            raise ValueError(
                f"the results were made under different test conditions: {key} differs, {shown}; a BD-rate between "
                "them would mean nothing, so code both under one condition"
            )


def _sequence_difference(first: TestCondition, second: TestCondition) -> str:
    """Which clip is not the same in both."""
    clips, others = ({clip.name: clip for clip in condition.sequences} for condition in (first, second))
    for name in sorted(clips.keys() | others.keys()):
        if name not in clips or name not in others:
            return f"{name!r} is in only one of them"
        for field in fields(SourceClip):
            values = [getattr(clip, field.name) for clip in (clips[name], others[name])]
            if values[0] != values[1]:
                return f"{field.name} of {name!r} is {values[0]!r} and {values[1]!r}"
    return "their order"
