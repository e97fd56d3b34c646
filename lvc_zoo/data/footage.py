"""What training clips are cut from: frames that can be read anywhere, by time and by window."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def area(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True, slots=True)
class Footage(ABC):
    """One source of frames of one size.

    Attributes:
        name: of the source, for messages.
        num_frames: length.
        height: of a frame in pixels.
        width: of a frame in pixels.
        cuts: indices of the frames that open a new shot, rising, without 0.
    """

    name: str
    num_frames: int
    height: int
    width: int
    cuts: tuple[int, ...] = ()

    @abstractmethod
    def read(self, times: range, window: Window, random: np.random.Generator) -> np.ndarray:
        """Frames at `times`, uint8 `(T, window.height, window.width, 3)` RGB; `random` is for made frames."""

    def starts(self, span: int) -> list[range]:
        """By shot, the frames at which `span` consecutive frames without a cut begin."""
        edges = (0, *self.cuts, self.num_frames)
        return [range(a, b - span + 1) for a, b in pairwise(edges) if b - a >= span]

    def draw_start(self, span: int, random: np.random.Generator) -> int:
        """One of all these frames, with equal chance."""
        shots = self.starts(span)
        place = int(random.integers(sum(map(len, shots))))
        for shot in shots:
            if place < len(shot):
                break
            place -= len(shot)
        return shot[place]

    def holds(self, span: int, crop: int) -> bool:
        """Whether a clip of `span` consecutive frames and `crop` pixels a side fits without a cut."""
        return min(self.height, self.width) >= crop and bool(self.starts(span))


@dataclass(frozen=True, slots=True)
class StoredFootage(Footage):
    """Decoded frames in a `.npy` file, uint8 `(T, H, W, 3)`.

    Attributes:
        path: of the file. It is opened for each clip: a memory map kept open costs a file descriptor.
    """

    path: Path = Path()

    def read(self, times: range, window: Window, random: np.random.Generator) -> np.ndarray:
        """See `Footage`."""
        rows, columns = window.area
        return np.load(self.path, mmap_mode="r")[times.start : times.stop : times.step, rows, columns]


class Group(NamedTuple):
    """Footage that is drawn with equal chance a source; `weight` is the group's share among groups."""

    footage: tuple[Footage, ...]
    weight: float = 1.0
