"""Coding structures as pure data: which frame is coded when, from which references, and when a reference may go.

A structure is asked for plans piecewise, so that a source of unknown length streams through it:

    first = 0
    while plans := structure.gop(first, frames_in_hand, source_has_ended):
        ...                                    # code them
        first += len(plans)                    # an answer covers a contiguous range of display indices

Hierarchical B frames follow BiECVC (arXiv 2505.09193): primaries from a binary tree, secondaries from Eq. 2 (Sec. 3.2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from enum import Enum
from typing import ClassVar


class FrameType(Enum):
    """How a frame is predicted: I from nothing, P from the past, B from past and future."""

    I = "I"  # noqa: E741 - the field's own word
    P = "P"
    B = "B"


@dataclass(frozen=True, slots=True)
class FramePlan:
    """What the loop must know about one frame before it codes it.

    Attributes:
        poc: display index, counted from 0.
        frame_type: I, P or B.
        references: POCs by role, None where a role is empty. I: ``()``; P: ``(past,)``;
            B: ``(past, future, past_secondary, future_secondary)``.
        layer: temporal layer; I 0, P 1, B 1, 2, ... from the top of the tree.
        position: ``poc`` minus the POC of the I frame that opens its GOP; 0 for an I frame.
        refresh: drop propagated features before this frame.
        release: POCs, possibly this one, that no later plan refers to: drop them after this frame.
    """

    poc: int
    frame_type: FrameType
    references: tuple[int | None, ...] = ()
    layer: int = 0
    position: int = 0
    refresh: bool = False
    release: tuple[int, ...] = ()


class GopStructure(ABC):
    """The order in which frames are coded and what each one refers to."""

    __slots__ = ()

    name: ClassVar[str]

    @abstractmethod
    def gop(self, first: int, available: int, final: bool) -> list[FramePlan]:
        """Gives the plans that can be coded next, in coding order; ``[]`` means that more frames are needed.

        Joining the answers gives the same plans however the frames arrive.

        Args:
            first: the next POC to plan: 0, then the sum of the lengths of all earlier answers.
            available: number of source frames in hand, from ``first`` on.
            final: True if the source ends after them. False promises at least one more frame, so a caller reads one
                frame ahead.
        """

    @property
    @abstractmethod
    def reorder(self) -> bool:
        """True if coding order differs from display order."""

    def plans(self, num_frames: int) -> list[FramePlan]:
        """Gives all plans, in coding order, for a source of ``num_frames`` >= 1 frames.

        Example:
            >>> [plan.poc for plan in RandomAccess(8).plans(9)]
            [0, 8, 4, 2, 1, 3, 6, 5, 7]
        """
        _check_count("num_frames", num_frames, at_least=1)
        plans: list[FramePlan] = []
        while len(plans) < num_frames:
            plans += self.gop(len(plans), num_frames - len(plans), final=True)
        return plans

    def to_config(self) -> dict[str, str | int | None]:
        """Gives a JSON-ready description that `from_config` reads back."""
        return {"type": self.name} | {key: getattr(self, key) for key in _settings(type(self))}

    @staticmethod
    def from_config(config: Mapping[str, object]) -> GopStructure:
        """Builds the structure that `to_config` described; a missing, unknown or ill-typed entry is an error.

        Example:
            >>> GopStructure.from_config({"type": "random_access", "intra_period": 32})
            RandomAccess(intra_period=32)
        """
        name = config.get("type")
        structures: dict[str, type[GopStructure]] = {kind.name: kind for kind in (RandomAccess, LowDelay)}
        if not isinstance(name, str) or name not in structures:
            raise ValueError(f"GOP structure type {name!r} is unknown{_nearest(name, structures)}")
        structure = structures[name]
        settings = _settings(structure)
        if set(config) != {"type", *settings}:
            unknown = sorted(set(config) - {"type", *settings})
            hints = "".join(_nearest(key, settings) for key in unknown[:1])
            raise ValueError(f"GOP structure {name!r} has keys {sorted(config)}, expected {['type', *settings]}{hints}")
        return structure(**{key: config[key] for key in settings})


@dataclass(frozen=True, slots=True)
class RandomAccess(GopStructure):
    """I frames every ``intra_period`` frames and a binary tree of B frames between them.

    The first answer is frame 0 alone; each later one is the closing I frame and the tree before it, depth first. A tail
    of n < ``intra_period`` frames after the last I frame spans the smallest power of two greater than n.

    CHOICE: in a tail a POC past the end stands for the opening I frame, because for n = ``intra_period`` - 1 that is
    the paper's rule (the missing closing I frame is a copy of the opening one).

    Args:
        intra_period: distance of two I frames, a power of two; 1 codes every frame as I.

    Example:
        >>> RandomAccess(2).plans(3)[-1].references
        (0, 2, None, None)
    """

    intra_period: int = 32

    name: ClassVar[str] = "random_access"

    def __post_init__(self) -> None:
        period = self.intra_period
        _check_count("intra_period", period, at_least=1)
        if period & (period - 1):
            below = 1 << (period.bit_length() - 1)
            raise ValueError(
                f"intra_period {period} is not a power of two; the nearest are {below} and {2 * below}, "
                "and LowDelay takes any period"
            )

    @property
    def reorder(self) -> bool:
        """True if coding order differs from display order."""
        return self.intra_period > 1

    def gop(self, first: int, available: int, final: bool) -> list[FramePlan]:
        """Gives frame 0, or the GOP or tail after frame ``first - 1``, which is an I frame. See `GopStructure.gop`."""
        _check_request(first, available)
        if available == 0:
            return []
        opening = first - 1
        if first and opening % self.intra_period:
            raise ValueError(
                f"first is {first}, expected 0 or one more than a multiple of {self.intra_period}; "
                "add the length of each answer to it"
            )
        if first == 0:
            return _with_release([_intra(0)], kept=self._kept(0, available > 1 or not final))
        if available >= self.intra_period:
            closing = opening + self.intra_period
            tree = _tree(opening, self.intra_period, self.intra_period)
            more = available > self.intra_period or not final
            return _with_release([_intra(closing), *tree], kept=self._kept(closing, more))
        if final:
            return _with_release(_tree(opening, 1 << available.bit_length(), available), kept=())
        return []

    def _kept(self, poc: int, more: bool) -> tuple[int, ...]:
        """The I frame that the next answer refers to, if there is one."""
        return (poc,) if more and self.intra_period > 1 else ()


@dataclass(frozen=True, slots=True)
class LowDelay(GopStructure):
    """Frames in display order, each P frame predicted from the frame before it.

    Answers with whatever is in hand up to the next I frame, so a frame is coded as soon as it arrives.

    Args:
        intra_period: distance of two I frames, >= 1 (1 is all-intra); None makes frame 0 the only I frame.

    Example:
        >>> [plan.frame_type.name for plan in LowDelay(3).plans(5)]
        ['I', 'P', 'P', 'I', 'P']
    """

    intra_period: int | None = None

    name: ClassVar[str] = "low_delay"

    def __post_init__(self) -> None:
        if self.intra_period is not None:
            _check_count("intra_period", self.intra_period, at_least=1, otherwise=" or None")

    @property
    def reorder(self) -> bool:
        """False: coding order is display order."""
        return False

    def gop(self, first: int, available: int, final: bool) -> list[FramePlan]:
        """Gives the frames in hand up to the next I frame. See `GopStructure.gop`."""
        _check_request(first, available)
        opening = first - self._position(first)
        in_hand = first + available
        stop = in_hand if self.intra_period is None else min(in_hand, opening + self.intra_period)
        plans = []
        for poc in range(first, stop):
            is_last = final and poc + 1 == in_hand
            release = (poc,) if is_last or self._position(poc + 1) == 0 else ()
            if poc == opening:
                plans.append(replace(_intra(poc), release=release))
            else:
                release = (poc - 1, *release)
                plans.append(FramePlan(poc, FrameType.P, (poc - 1,), 1, poc - opening, release=release))
        return plans

    def _position(self, poc: int) -> int:
        return poc if self.intra_period is None else poc % self.intra_period


def _intra(poc: int) -> FramePlan:
    return FramePlan(poc, FrameType.I)


def _tree(opening: int, span: int, num_frames: int) -> list[FramePlan]:
    """The B frames among the ``num_frames`` frames after the I frame ``opening``, in pre-order.

    The tree spans ``span`` frames and ends in an I frame at ``opening + span``, coded if ``num_frames == span``.
    """
    end = opening + num_frames
    coded: dict[int, FramePlan] = {}

    def visit(past: int, future: int, layer: int) -> None:
        poc = (past + future) // 2
        if poc == past or past >= end:
            return
        if poc <= end:
            stand_in = future if future <= end else opening
            past_secondary = coded[past].references[0] if past in coded else None
            future_secondary = coded[stand_in].references[1] if stand_in in coded else None
            references = (past, stand_in, past_secondary, future_secondary)
            coded[poc] = FramePlan(poc, FrameType.B, references, layer, poc - opening)
        visit(past, poc, layer + 1)
        visit(poc, future, layer + 1)

    visit(opening, opening + span, 1)
    return list(coded.values())


def _with_release(plans: Iterable[FramePlan], kept: tuple[int, ...]) -> list[FramePlan]:
    """Fills in ``release`` for one answer: each of its POCs, and each it refers to, goes after its last use.

    Args:
        plans: one answer in coding order.
        kept: POCs that later answers still refer to.
    """
    plans = list(plans)
    last_use = {poc: plan for plan in plans for poc in (plan.poc, *plan.references) if poc is not None}
    release: dict[int, list[int]] = {plan.poc: [] for plan in plans}
    for poc in sorted(last_use.keys() - set(kept)):
        release[last_use[poc].poc].append(poc)
    return [replace(plan, release=tuple(release[plan.poc])) for plan in plans]


def _settings(structure: type[GopStructure]) -> list[str]:
    return [field.name for field in fields(structure)]  # type: ignore[arg-type]


def _nearest(word: object, known: Iterable[str]) -> str:
    near = get_close_matches(str(word), list(known), n=1, cutoff=0.0)
    return f"; did you mean {near[0]!r}?" if near else ""


def _check_count(name: str, value: object, at_least: int, otherwise: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name} is {value!r}, expected an integer >= {at_least}{otherwise}")


def _check_request(first: int, available: int) -> None:
    _check_count("first", first, at_least=0)
    _check_count("available", available, at_least=0)
