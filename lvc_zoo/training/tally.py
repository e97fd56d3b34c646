"""What a training step logs: means over frames and samples, over all processes, in one exchange."""

from collections.abc import Callable

import torch
from torch import Tensor


class Tally:
    """Sums of per-sample values, by rate anchor.

    Args:
        anchor: of each sample, `(B,)` int64.
        anchors: number of anchors.
    """

    def __init__(self, anchor: Tensor, anchors: int):
        self._anchor, self._anchors = anchor, anchors
        self._sums: dict[str, Tensor] = {}
        self._by_anchor: dict[str, bool] = {}
        self._frames = 0

    def add(self, name: str, values: Tensor, *, by_anchor: bool = False) -> None:
        """Add the values `(B,)` of a frame; the loss is added once a frame, and first."""
        self._frames += name == "loss"
        sums = self._sums.get(name)
        if sums is None:
            sums = values.new_zeros(self._anchors, dtype=torch.float32)
        self._sums[name] = sums.index_add(0, self._anchor, values.detach().float())
        self._by_anchor[name] = by_anchor

    def means(self, reduce: Callable[..., Tensor]) -> dict[str, Tensor]:
        """Means by name, and `name_0`, `name_1`, ... for those kept by anchor; `reduce` sums over processes."""
        samples = torch.bincount(self._anchor, minlength=self._anchors).float() * self._frames
        table: Tensor = reduce(torch.stack([samples, *self._sums.values()]), reduce_op="sum")
        counts = table[0]
        values: dict[str, Tensor] = {}
        for name, sums in zip(self._sums, table[1:], strict=True):
            if self._by_anchor[name]:
                values |= {f"{name}_{anchor}": value for anchor, value in enumerate(sums / counts)}
            else:
                values[name] = sums.sum() / counts.sum()
        return values
