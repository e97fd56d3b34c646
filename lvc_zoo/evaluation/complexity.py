"""Complexity without running: multiply-accumulate operations (MACs) and parameters by module, on the meta device."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..blocks.motion import BlockMatching
from ..codec.picture import Picture
from ..codec.sequence import Stored, code_sequence
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
        attention: batched products by way of counting, not in the totals: of queries, keys and values, and a hundredth
            of a kMAC in priors made of matrices.
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


def padded_720p(codec: VideoCodec) -> tuple[int, int]:
    """Height and width of 720p, padded as the codec pads."""
    multiple = codec.pad_multiple
    return -(-720 // multiple) * multiple, -(-1280 // multiple) * multiple


def measure_complexity(
    codec: VideoCodec, size: tuple[int, int] | None = None, intra_period: int = 32
) -> dict[str, Complexity]:
    """MACs and parameters of a codec's networks, encoder and decoder together with the shared part counted once.

    B frames are averaged over a GOP; of P frames, the first after an I frame and one in the steady state are counted.
    Counted are convolutions, 1x1 ones included, and block transforms; not biases, activations,
    warping, interpolation, block matching or entropy coding.

    Args:
        codec: moved to the meta device: make one for this.
        size: height and width, multiples of the codec's padding; None is `padded_720p`.
        intra_period: of the random-access GOP that the cached average is taken over.

    Returns:
        "intra" and, where there is one, "inter".
    """
    size = size or padded_720p(codec)
    if any(side % codec.pad_multiple for side in size):
        raise ValueError(
            f"size {size} is not a multiple of {codec.pad_multiple}; complexity is counted without padding"
        )
    codec = _without_search(codec.eval().requires_grad_(False).to("meta"))
    pixels = 1000.0 * size[0] * size[1]
    intra = _Counter(codec.intra)
    with intra.running():
        _drain(codec, size, LowDelay(1).plans(1))
    result = {"intra": intra.complexity({"I": "one I frame"}, [("I", intra.snapshot(), 1 / pixels)])}
    if FrameType.B in codec.frame_types:
        result["inter"] = _measure_bidirectional(codec, size, intra_period, pixels)
    elif codec.inter is not None:
        result["inter"] = _measure_low_delay(codec, codec.inter, size, pixels)
    return result


class _NoSearch(nn.Module):
    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], 2, *x.shape[-2:])


def _without_search(codec: VideoCodec) -> VideoCodec:
    """Leave out block matching: it holds nothing that is counted, and its many small operations take a minute."""
    for module in list(codec.modules()):
        for name, child in module.named_children():
            if isinstance(child, BlockMatching):
                setattr(module, name, _NoSearch())
    return codec


STEADY_POSITION = 2
"""Position of a P frame whose reference has every state that the networks know."""


def _measure_low_delay(codec: VideoCodec, network: nn.Module, size: tuple[int, int], pixels: float) -> Complexity:
    counter, source = _Counter(network), _Source(size)
    opening, *plans = LowDelay().plans(STEADY_POSITION + 1)
    dpb = {0: Stored(Picture(source(0)), opening)}
    with counter.running(), torch.no_grad():
        frames = code_sequence(codec, source, plans, lambda _: RateEstimator(), _rate(), dpb=dpb)
        snapshots = [counter.snapshot(), *(counter.snapshot() for _ in frames)]
    first, steady = _difference(snapshots[1], snapshots[0]), _difference(snapshots[-1], snapshots[-2])
    notes = {
        "first P after I": "the P frame after an I frame, which brings its picture alone",
        "steady-state P": f"P frame {STEADY_POSITION} of a GOP, all states of its reference in use",
    }
    columns = [(name, macs, 1 / pixels) for name, macs in zip(notes, (first, steady), strict=True)]
    return counter.complexity(notes, columns)


def _measure_bidirectional(codec: VideoCodec, size: tuple[int, int], intra_period: int, pixels: float) -> Complexity:
    assert codec.inter is not None
    counter = _Counter(codec.inter)
    # the second GOP alone: nothing in it refers further back than its opening I frame
    plans = [p for p in RandomAccess(intra_period).plans(2 * intra_period + 1) if p.poc >= intra_period]
    notes = {
        "cached": f"average over the {intra_period - 1} B frames of a GOP of {intra_period}, references computed once; "
        "the opening I frame's belongs to the GOP before; B references of all layers show at the first adaptor",
        "uncached": "one B frame with four distinct B references, all recomputed as run",
        "uncached, read only": "the same without full-size keys and values of the secondaries, which nobody reads",
    }
    with counter.running(), torch.no_grad():
        frames = _FrameCosts(codec, size, counter)
        cached = frames.of_gop(plans)
        uncached = frames.of((FrameType.B,) * 4)
    columns = [
        ("cached", cached, 1 / (intra_period - 1) / pixels),
        ("uncached", uncached, 1 / pixels),
        ("uncached, read only", _without_unread(uncached), 1 / pixels),
    ]
    return counter.complexity(notes, columns)


class _FrameCosts:
    """MACs of B frames by the types of their references; pictures of a type have equal shapes, so a case runs once.

    Args:
        codec: on the meta device.
        size: height and width.
        counter: of its inter network, running.
    """

    def __init__(self, codec: VideoCodec, size: tuple[int, int], counter: "_Counter"):
        self.codec = codec
        self.counter = counter
        self._source = _Source(size)
        self._pictures = {FrameType.I: Picture(self._source(0))}
        self._known: dict[tuple[FrameType | None, ...], Macs] = {}
        self.of((FrameType.I, FrameType.I, None, None))
        self._references = {kind: self._reference(kind) for kind in self._pictures}

    def of(self, references: tuple[FrameType | None, ...]) -> Macs:
        """MACs of a B frame with references of these types by role, all distinct and none computed before."""
        if references not in self._known:
            pocs = tuple(None if kind is None else i + 1 for i, kind in enumerate(references))
            dpb = {
                poc: Stored(self._pictures[kind], FramePlan(poc, kind, layer=int(kind is FrameType.B)))
                for poc, kind in zip(pocs, references, strict=True)
                if poc is not None and kind is not None
            }
            plan = FramePlan(0, FrameType.B, pocs, layer=1)
            before = self.counter.snapshot()
            for _ in code_sequence(self.codec, self._source, [plan], lambda _: RateEstimator(), _rate(), dpb=dpb):
                pass
            self._pictures.setdefault(FrameType.B, dpb[0].picture)
            self._known[references] = _difference(self.counter.snapshot(), before)
        return self._known[references]

    def of_gop(self, plans: list[FramePlan]) -> Macs:
        """MACs of all B frames, the features of each reference counted once, those of the first frame not at all."""
        types = {plan.poc: plan.frame_type for plan in plans}
        seen, total = {plans[0].poc}, dict.fromkeys(self._references[FrameType.B], 0.0)
        for plan in plans:
            if plan.frame_type is not FrameType.B:
                continue
            macs = self.of(tuple(None if poc is None else types[poc] for poc in plan.references))
            for poc in plan.references:
                if poc in seen:
                    macs = _difference(macs, self._references[types[poc]])
                elif poc is not None:
                    seen.add(poc)
            total = {name: value + macs[name] for name, value in total.items()}
        return total

    def _reference(self, kind: FrameType) -> Macs:
        before = self.counter.snapshot()
        plan = FramePlan(0, kind, layer=int(kind is FrameType.B))
        self.codec.network(FrameType.B).reference(self._pictures[kind], plan)
        return _difference(self.counter.snapshot(), before)


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
            for name, row in self._rows.items():
                # the parts too: some methods beside forward call them
                for module in (row, *row.children()):
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
        """MACs of convolutions, and of batched products."""
        # not get_flop_counts(), which copies the counts of every module
        counts = self._flops.flop_counts["Global"]
        attention = counts.get(torch.ops.aten.bmm, 0)
        return (sum(counts.values()) - attention) / 2, attention / 2

    def _enter(self, *_: Any) -> None:
        self._entered.append((self._totals()[0], sum(self._counts.values())))

    def _leave(self, name: str) -> Any:
        def hook(*_: Any) -> None:
            total, counted = self._entered.pop()
            # what ran inside and has its own hook is counted already
            self._counts[name] += self._totals()[0] - total - (sum(self._counts.values()) - counted)

        return hook


def _row_modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The rows of the table: containers that are never called themselves are opened."""
    for name, child in network.named_children():
        yield from _opened(name, child)


def _opened(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    # what has a `reference` works outside its forward too
    called = type(module).forward is not nn.Module.forward and not hasattr(module, "reference")
    if called or not any(isinstance(part, nn.Conv2d) for part in module.modules()):
        yield name, module
        return
    for child_name, child in module.named_children():
        yield from _opened(f"{name}.{child_name}", child)


def _difference(now: Macs, before: Macs) -> Macs:
    return {name: value - before.get(name, 0.0) for name, value in now.items()}
