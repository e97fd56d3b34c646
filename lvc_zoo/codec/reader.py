"""What a codec needs to know of a source: size, rate, colour, and frames one by one."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Protocol

from torch import Tensor

from ..color import ColorSpec


class FrameReader(Protocol):
    """A video that gives its frames one by one; `lvc_zoo.data.open_video` makes them from files."""

    @property
    def width(self) -> int:
        """Columns of a frame."""

    @property
    def height(self) -> int:
        """Lines of a frame."""

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second."""

    @property
    def color(self) -> ColorSpec:
        """How the source stores colour."""

    @property
    def num_frames(self) -> int | None:
        """Number of frames; None where only reading to the end tells."""

    def __iter__(self) -> Iterator[Tensor]:
        """Frames `(3, H, W)`, RGB in [0, 1], in display order, from the first at each call."""


class TensorReader:
    """A clip in memory as a reader.

    Args:
        frames: `(T, 3, H, W)`, RGB in [0, 1].
        frame_rate: frames per second.
        color: how a decoder should store the clip; None is `ColorSpec.for_rgb`.

    Example:
        >>> import torch
        >>> reader = TensorReader(torch.zeros(5, 3, 16, 24))
        >>> reader.num_frames, reader.width, reader.height
        (5, 24, 16)
    """

    def __init__(self, frames: Tensor, frame_rate: Fraction | float = 25, color: ColorSpec | None = None) -> None:
        if frames.dim() != 4 or frames.shape[1] != 3 or not frames.is_floating_point():
            raise ValueError(
                f"frames are {frames.dtype} of shape {tuple(frames.shape)}, "
                "expected floating point (T, 3, H, W) in [0, 1]"
            )
        self._frames = frames
        self.num_frames, _, self.height, self.width = frames.shape
        self.frame_rate = Fraction(frame_rate).limit_denominator(1001)
        self.color = color or ColorSpec.for_rgb(self.height)

    def __iter__(self) -> Iterator[Tensor]:
        """Frames `(3, H, W)`."""
        return iter(self._frames)
