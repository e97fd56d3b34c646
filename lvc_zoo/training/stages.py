"""Stage tables: what a training run does when, as rows of plain data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Trained = Literal["all", "motion", "all-but-motion"]
Backpropagation = Literal["cascaded", "chunked", "detached"]

_CHOICES = {
    "trained": ("all", "motion", "all-but-motion"),
    "distortion": ("frame", "warp"),
    "backpropagation": ("cascaded", "chunked", "detached"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of a run in which clips, trained modules and loss stay the same.

    Attributes:
        name: for messages and logs.
        steps: optimiser steps.
        num_frames: frames of a clip, coded I frames included.
        learning_rate: peak.
        final_learning_rate: reached at the stage's end along a cosine; None is a hundredth of the peak, the peak itself
            keeps it constant.
        warmup_steps: linear rise to the peak.
        strides: temporal distances between a clip's frames, drawn with equal chance.
        trained: modules that learn; "motion" is what lies under `network.motion`.
        distortion: error of the decoded "frame", or of decoded references that are only warped by decoded flows.
        rate: latents whose bits count, "motion" and "frame", each with its hyper latent; () trains without a rate.
        frame_weights: whether the paper's layer or frame weights apply; otherwise all frames weigh alike.
        warp_weight: of the error of warped source references, added to the distortion: teaches motion from nothing.
        backpropagation: how far gradients pass from frame to frame: through the whole clip ("cascaded"), within chunks
            of `chunk` trained frames, after each of which the DPB is detached and memory freed ("chunked"), or not at
            all ("detached", chunks of one). The optimiser steps once a clip.
        chunk: trained frames of a chunk, in coding order.
        checkpointing: keep only what passes between frames and compute the rest again while back-propagating.
    """

    name: str
    steps: int
    num_frames: int
    learning_rate: float
    final_learning_rate: float | None = None
    warmup_steps: int = 0
    strides: tuple[int, ...] = (1,)
    trained: Trained = "all"
    distortion: Literal["frame", "warp"] = "frame"
    rate: tuple[Literal["motion", "frame"], ...] = ("motion", "frame")
    frame_weights: bool = True
    warp_weight: float = 0.0
    backpropagation: Backpropagation = "cascaded"
    chunk: int = 4
    checkpointing: bool = False

    def __post_init__(self) -> None:
        """Check every entry; a bad recipe must stop before the first step."""
        for key in ("steps", "num_frames", "chunk"):
            if getattr(self, key) < 1:
                raise ValueError(f"stage {self.name!r}: {key} is {getattr(self, key)}, expected at least 1")
        for key in ("warmup_steps", "warp_weight", "learning_rate", "final_learning_rate"):
            if (getattr(self, key) or 0) < 0:
                raise ValueError(f"stage {self.name!r}: {key} is {getattr(self, key)}, expected 0 or more")
        if not self.strides or min(self.strides) < 1:
            raise ValueError(f"stage {self.name!r}: strides are {self.strides}, expected one or more, each at least 1")
        for key, known in _CHOICES.items():
            if getattr(self, key) not in known:
                raise ValueError(f"stage {self.name!r}: {key} is {getattr(self, key)!r}, expected one of {known}")
        if not set(self.rate) <= {"motion", "frame"}:
            raise ValueError(
                f"stage {self.name!r}: rate is {self.rate}, expected some of 'motion' and 'frame'; hyper latents count "
                "with their own latent"
            )
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"stage {self.name!r}: warmup_steps is {self.warmup_steps}, the stage has {self.steps} steps; lower it"
            )

    @property
    def chunk_frames(self) -> int:
        """Trained frames between two detachments of the DPB."""
        return {"cascaded": self.num_frames, "chunked": self.chunk, "detached": 1}[self.backpropagation]

    def learning_rate_at(self, step: int) -> float:
        """Learning rate at `step`, counted from the stage's start: a linear rise, then a cosine.

        Example:
            >>> stage = Stage(name="all", steps=100, num_frames=3, learning_rate=1e-4, warmup_steps=10)
            >>> [round(stage.learning_rate_at(step), 7) for step in (0, 9, 100)]
            [1e-05, 0.0001, 1e-06]
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        final = self.learning_rate / 100 if self.final_learning_rate is None else self.final_learning_rate
        done = min((step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1), 1.0)
        return final + (self.learning_rate - final) * 0.5 * (1 + math.cos(math.pi * done))


def stage_at(stages: Sequence[Stage], step: int) -> tuple[Stage, int]:
    """The stage that optimiser step `step` belongs to and that stage's first step; the last one goes on for ever.

    Example:
        >>> short = Stage(name="short", steps=5, num_frames=2, learning_rate=1e-4)
        >>> long = Stage(name="long", steps=3, num_frames=5, learning_rate=1e-5)
        >>> stage, first = stage_at([short, long], 6)
        >>> stage.name, first
        ('long', 5)
    """
    if not stages:
        raise ValueError("the stage table is empty, expected at least one stage")
    first = 0
    for stage in stages[:-1]:
        if step < first + stage.steps:
            return stage, first
        first += stage.steps
    return stages[-1], first


def total_steps(stages: Sequence[Stage]) -> int:
    """Optimiser steps of the whole table."""
    return sum(stage.steps for stage in stages)
