"""Complexity without running: multiply-accumulate operations (MACs) and parameters by module, on the meta device."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..codec.picture import Picture
from ..codec.sequence import code_sequence
from ..codec.video import VideoCodec
from ..entropy.coder import RateEstimator
from ..gop import FramePlan, FrameType, LowDelay, RandomAccess

Macs = dict[str, float]


@dataclass(frozen=True, slots=True)
class Complexity:
    """MACs of one frame type, in thousands a pixel of the unpadded frame; attention products are kept apart.

    Attributes:
        columns: for each way of counting, MACs by module; "total" is their sum.
        parameters: by module of the network.
        attention: products of queries, keys and values by way of counting, not in the totals.
        notes: what each column counts.
    """

    columns: dict[str, Macs]
    parameters: dict[str, int]
    attention: dict[str, float]
    notes: dict[str, str]


class _Source:
    def __init__(self, size: tuple[int, int]):
        self.size = size

    def __call__(self, poc: int) -> Tensor:
        return torch.empty(1, 3, *self.size, device="meta")


def measure_complexity(codec: VideoCodec, size: tuple[int, int] = (720, 1280), intra_period: int = 32) -> dict[str, Complexity]:
    """MACs and parameters of a codec's networks, encoder and decoder together with the shared part counted once.

    Counted are convolutions, 1x1 convolutions written as linear maps, and block transforms; not biases, activations,
    warping, interpolation or entropy coding.

    Args:
        codec: moved to the meta device: make one for this.
        size: height and width, multiples of the codec's padding.
        intra_period: of the random-access GOP that the cached average is taken over.

    Returns:
        "intra" and, where there is one, "inter".
    """
    if any(side % codec.pad_multiple for side in size):
        raise ValueError(f"size {size} is not a multiple of {codec.pad_multiple}; complexity is counted without padding")
    codec = codec.eval().to("meta")
    pixels = 1000.0 * size[0] * size[1]
    intra = _Counter(codec.intra)
    with intra.running():
        _drain(codec, size, LowDelay(1).plans(1))
    result = {"intra": intra.complexity({"I": "one I frame"}, [("I", intra.snapshot(), 1 / pixels)])}
    if codec.inter is not None:
        result["inter"] = _measure_bidirectional(codec, size, intra_period, pixels)
    return result


def _measure_bidirectional(codec: VideoCodec, size: tuple[int, int], intra_period: int, pixels: float) -> Complexity:
    assert codec.inter is not None
    counter = _Counter(codec.inter)
    # the second GOP alone: nothing in it refers further back than its opening I frame
    plans = [p for p in RandomAccess(intra_period).plans(2 * intra_period + 1) if p.poc >= intra_period]
    types = {plan.poc: plan.frame_type for plan in plans}
    notes = {
        "cached": f"average over the {intra_period - 1} B frames of a GOP of {intra_period}, references computed once; "
        "the opening I frame's belongs to the GOP before",
        "uncached": "one B frame with four distinct B references, all recomputed as run",
        "uncached, read only": "the same without full-size keys and values of the secondaries, which nobody reads",
    }
    distinct = next(
        i for i, p in enumerate(plans) if len({r for r in p.references if types.get(r) is FrameType.B}) == 4
    )
    with counter.running(), torch.no_grad():
        _reference_intra(codec, size, plans[0])
        opening = counter.snapshot()
        cached = dict.fromkeys(opening, 0.0)
        for macs in _frame_by_frame(codec, size, plans, counter, cache=True):
            cached = {name: value + macs[name] for name, value in cached.items()}
        cached = _difference(cached, opening)
        uncached = list(_frame_by_frame(codec, size, plans[: distinct + 1], counter, cache=False))[-1]
    columns = [
        ("cached", cached, 1 / (intra_period - 1) / pixels),
        ("uncached", uncached, 1 / pixels),
        ("uncached, read only", _without_unread(uncached), 1 / pixels),
    ]
    return counter.complexity(notes, columns)


def _frame_by_frame(
    codec: VideoCodec, size: tuple[int, int], plans: list[FramePlan], counter: "_Counter", cache: bool
) -> Iterator[Macs]:
    """MACs of each B frame, the references that it is the first to need included."""
    before = counter.snapshot()
    for frame in code_sequence(codec, _Source(size), plans, lambda _: RateEstimator(), _rate(), cache=cache):
        now = counter.snapshot()
        if frame.plan.frame_type is FrameType.B:
            yield _difference(now, before)
        before = now


def _reference_intra(codec: VideoCodec, size: tuple[int, int], plan: FramePlan) -> None:
    picture = Picture(torch.empty(1, 3, *size, device="meta"))
    codec.network(FrameType.B).reference(picture, plan)


UNREAD = ("miner.key.0", "miner.value.0")
"""Full-size keys and values: of four references, the two secondaries' are never read."""


def _without_unread(macs: Macs) -> Macs:
    """Half of the full-size keys and values, those of the secondaries, left out."""
    return {name: value / 2 if name in UNREAD else value for name, value in macs.items()}


def _rate() -> Tensor:
    return torch.zeros(1, device="meta")


def _drain(codec: VideoCodec, size: tuple[int, int], plans: list[FramePlan]) -> None:
    with torch.no_grad():
        for _ in code_sequence(codec, _Source(size), plans, lambda _: RateEstimator(), _rate()):
            pass


class _Counter:
    """Running MACs of a network's modules; PyTorch's own counter counts, hooks say for whom."""

    def __init__(self, network: nn.Module):
        self.network = network
        self._rows = dict(_row_modules(network))
        self._counts: Macs = dict.fromkeys(self._rows, 0.0)
        self._flops = FlopCounterMode(display=False)
        self._entered: list[tuple[float, float]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self._flops)
            for name, module in self._rows.items():
                stack.callback(module.register_forward_pre_hook(self._enter).remove)
                stack.callback(module.register_forward_hook(self._leave(name)).remove)
            yield

    def snapshot(self) -> Macs:
        """MACs so far, by row; everything outside the rows as "other", attention as "attention"."""
        convolutions, attention = self._totals()
        rows = dict(self._counts)
        rows["other"] = convolutions - sum(rows.values())
        rows["attention"] = attention
        return rows

    def complexity(self, notes: dict[str, str], columns: list[tuple[str, Macs, float]]) -> Complexity:
        scaled = {name: {row: value * scale for row, value in macs.items()} for name, macs, scale in columns}
        attention = {name: macs.pop("attention", 0.0) for name, macs in scaled.items()}
        for macs in scaled.values():
            macs["total"] = sum(macs.values())
        parameters = {name: sum(p.numel() for p in module.parameters()) for name, module in self._rows.items()}
        total = sum(p.numel() for p in self.network.parameters())
        parameters["other"] = total - sum(parameters.values())
        parameters["total"] = total
        return Complexity(scaled, parameters, attention, notes)

    def _totals(self) -> tuple[float, float]:
        """MACs of convolutions and linear maps, and of batched products, which only attention uses."""
        counts = self._flops.get_flop_counts().get("Global", {})
        attention = sum(value for op, value in counts.items() if op is torch.ops.aten.bmm)
        return (self._flops.get_total_flops() - attention) / 2, attention / 2

    def _enter(self, *_: Any) -> None:
        self._entered.append((self._totals()[0], sum(self._counts.values())))

    def _leave(self, name: str) -> Any:
        def hook(*_: Any) -> None:
            total, counted = self._entered.pop()
            # rows that ran inside this one keep what is theirs
            self._counts[name] += self._totals()[0] - total - (sum(self._counts.values()) - counted)

        return hook


def _row_modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The rows of the table: containers that are never called themselves are opened."""
    for name, child in network.named_children():
        yield from _opened(name, child)


def _opened(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    called = type(module).forward is not nn.Module.forward
    if called or not any(isinstance(part, nn.Conv2d) for part in module.modules()):
        yield name, module
        return
    for child_name, child in module.named_children():
        yield from _opened(f"{name}.{child_name}", child)


def _difference(now: Macs, before: Macs) -> Macs:
    return {name: value - before.get(name, 0.0) for name, value in now.items()}
