"""Training clips, each a function of the seed and of its place in the run, and whole clips for validation."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .footage import Footage, Group, Window

AUGMENTATIONS = ("horizontal", "vertical", "reversal")
"""Mirrored left to right, mirrored top to bottom, played backwards; each for half of the clips."""
VALIDATION_MULTIPLE = 64


class ClipPhase(NamedTuple):
    """A part of a run in which clips have one shape.

    Attributes:
        steps: number of batches.
        num_frames: of a clip.
        strides: temporal distances between neighbouring frames, drawn with equal chance, one a batch.
    """

    steps: int
    num_frames: int
    strides: tuple[int, ...] = (1,)

    def spans(self) -> dict[int, int]:
        """By stride, how many consecutive frames a clip takes from its source."""
        return {stride: (self.num_frames - 1) * stride + 1 for stride in self.strides}


class TrainingClip(NamedTuple):
    """Frames `(T, 3, H, W)` in [0, 1] and the temporal distance between two of them; batched, both gain a dimension."""

    frames: Tensor
    stride: Tensor


class RandomClips(Dataset[TrainingClip]):
    """Random clips without a cut; item i of a run is a function of the seed, i and its phase, so runs resume exactly.

    A group is drawn by weight among those that have clips long and large enough, then a source, then place and time.

    Args:
        groups: of footage.
        phases: of the run.
        crop: side of the square crop in pixels.
        batch_size: items of a step, over all processes; they share a stride.
        augment: of `AUGMENTATIONS`.
        seed: of the run.

    Raises:
        ValueError: where a phase finds no clip long and large enough.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        phases: Sequence[ClipPhase],
        *,
        crop: int,
        batch_size: int,
        augment: Sequence[str] = AUGMENTATIONS,
        seed: int = 0,
    ):
        unknown = [name for name in augment if name not in AUGMENTATIONS]
        if unknown:
            raise ValueError(f"augment holds {unknown[0]!r}, expected some of {', '.join(AUGMENTATIONS)}")
        self.phases, self.crop, self.batch_size = tuple(phases), crop, batch_size
        self.augment, self.seed = tuple(augment), seed
        self._ends = list(accumulate(phase.steps for phase in phases))
        self._usable: dict[int, tuple[Group, ...]] = {}
        for phase in phases:
            for stride, span in phase.spans().items():
                self._usable[span] = self._usable.get(span) or usable_groups(groups, span, crop)
                if not self._usable[span]:
                    raise ValueError(_nothing_fits(groups, phase, stride, crop))

    def __len__(self) -> int:
        """Number of items of the whole run."""
        return self._ends[-1] * self.batch_size

    def __getitem__(self, index: int) -> TrainingClip:
        """Item `index` of the run."""
        step = index // self.batch_size
        phase = self.phases[bisect_right(self._ends, step)]
        stride = int(self._random("stride", step).choice(phase.strides))
        span = phase.spans()[stride]
        random = self._random("clip", index)
        groups = self._usable[span]
        weights = np.array([group.weight for group in groups])
        group = groups[random.choice(len(groups), p=weights / weights.sum())]
        footage = group.footage[random.integers(len(group.footage))]
        first = footage.draw_start(span, random)
        top, left = (int(random.integers(side - self.crop + 1)) for side in (footage.height, footage.width))
        flips = {name: random.random() < 0.5 for name in AUGMENTATIONS}
        part = footage.read(range(first, first + span, stride), Window(top, left, self.crop, self.crop), random)
        for axis, name in ((2, "horizontal"), (1, "vertical"), (0, "reversal")):
            if name in self.augment and flips[name]:
                part = np.flip(part, axis)
        return TrainingClip(to_tensor(part), torch.tensor(stride))

    def _random(self, what: str, index: int) -> np.random.Generator:
        key = hashlib.sha256(f"{self.seed}/{what}/{index}".encode()).digest()
        return np.random.default_rng(int.from_bytes(key[:8], "little"))


class WholeClips(Dataset[TrainingClip]):
    """The first frames of every source, cropped about the middle to multiples of 64.

    Args:
        footage: of the sources.
        num_frames: of a clip.
        crop: longest side in pixels, a multiple of 64.
        smallest: side that a clip must have after cropping.
        labels: a name for each source, of which no two are alike; None makes them.

    Raises:
        ValueError: for a source that is too short or too small.
    """

    def __init__(
        self,
        footage: Sequence[Footage],
        *,
        num_frames: int,
        crop: int,
        smallest: int = VALIDATION_MULTIPLE,
        labels: Sequence[str] | None = None,
    ):
        needed = -(-smallest // VALIDATION_MULTIPLE) * VALIDATION_MULTIPLE
        if crop < needed:
            raise ValueError(f"val_crop is {crop}, expected at least {needed} for this loss; raise val_crop")
        for source in footage:
            if source.num_frames < num_frames or min(source.height, source.width) < needed:
                raise ValueError(
                    f"{source.name} has {source.num_frames} frames of {source.width}x{source.height}, expected at "
                    f"least {num_frames} of {needed}x{needed} for validation; lower val_frames or move it elsewhere"
                )
        self.footage, self.num_frames, self.crop = tuple(footage), num_frames, crop
        self.labels = tuple(labels or unique_labels([source.name for source in footage]))

    def __len__(self) -> int:
        """Number of sources."""
        return len(self.footage)

    def __getitem__(self, index: int) -> TrainingClip:
        """The clip of one source."""
        source = self.footage[index]
        size = source.height, source.width
        height, width = (min(side, self.crop) // VALIDATION_MULTIPLE * VALIDATION_MULTIPLE for side in size)
        window = Window((size[0] - height) // 2, (size[1] - width) // 2, height, width)
        frames = source.read(range(self.num_frames), window, np.random.default_rng(index))
        return TrainingClip(to_tensor(frames), torch.tensor(1))


def unique_labels(names: Sequence[str]) -> list[str]:
    """File names for sources: the ends of their paths, as long as it takes to tell them apart, else numbers.

    Example:
        >>> unique_labels(["a/val/x.mp4", "b/val/x.mp4"])
        ['a_val_x.mp4', 'b_val_x.mp4']
        >>> unique_labels(["00001/0266", "00001/0266"])
        ['0_00001_0266', '1_00001_0266']
    """
    parts = [[part for part in Path(name).parts if part != "/"] for name in names]
    for depth in range(2, max(map(len, parts), default=2) + 1):
        labels = ["_".join(each[-depth:]) for each in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{index}_{'_'.join(each[-2:])}" for index, each in enumerate(parts)]


def to_tensor(frames: np.ndarray) -> Tensor:
    """Frames `(T, 3, H, W)` in [0, 1] of uint8 `(T, H, W, 3)`."""
    # a copy: stored frames are read-only, and flipped ones run backwards in memory
    return torch.from_numpy(np.array(frames, order="C")).permute(0, 3, 1, 2).float() / 255


def usable_groups(groups: Sequence[Group], span: int, crop: int) -> tuple[Group, ...]:
    """The groups without what is too short, too small or cut too often; empty ones are left out."""
    kept = (Group(tuple(f for f in group.footage if f.holds(span, crop)), group.weight) for group in groups)
    return tuple(group for group in kept if group.footage and group.weight > 0)


def _nothing_fits(groups: Sequence[Group], phase: ClipPhase, stride: int, crop: int) -> str:
    every = [footage for group in groups for footage in group.footage]
    longest = max((len(shot) for footage in every for shot in footage.starts(1)), default=0)
    largest = max((min(footage.height, footage.width) for footage in every), default=0)
    return (
        f"none of {len(every)} clips has {phase.spans()[stride]} frames without a cut ({phase.num_frames} frames, "
        f"stride {stride}) of at least {crop}x{crop}; the longest shot has {longest} frames and the largest short side "
        f"is {largest}; lower num_frames, strides or crop, or add longer clips"
    )
