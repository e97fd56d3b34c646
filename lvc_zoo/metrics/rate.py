"""Rate: bits per pixel, whole and by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ..errors import nearest_names


class BitsPerPixel(Metric):
    """Bits per pixel by part and in total: all bits seen over all pixels seen.

    Args:
        parts: names under which bits are counted. For measured files add one for the framing: every byte counts.
        **kwargs: settings of `torchmetrics.Metric`.

    Raises:
        ValueError: if a part is called `total`, the name of the sum, or is named twice.

    Example:
        >>> metric = BitsPerPixel()
        >>> metric.update({"frame": torch.tensor([64.0]), "hyper": torch.tensor([16.0])}, num_pixels=8 * 8)
        >>> {name: bpp.item() for name, bpp in metric.compute().items()}
        {'motion': 0.0, 'frame': 1.0, 'hyper': 0.25, 'total': 1.25}
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def __init__(self, parts: Sequence[str] = ("motion", "frame", "hyper"), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if "total" in parts or len(set(parts)) != len(parts):
            raise ValueError(f"parts are {list(parts)}; expected distinct names other than 'total'; rename one")
        self.parts = tuple(parts)
        # float64: a long clip has more bits than float32 counts exactly.
        self.add_state("bits", torch.zeros(len(self.parts), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_pixels", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.bits: Tensor
        self.num_pixels: Tensor

    def update(self, bits: Mapping[str, Tensor | float], num_pixels: int | Tensor) -> None:
        """Adds the bits of some frames.

        Args:
            bits: bits by part, each of any shape, summed; a missing part has none (an I frame has no motion).
            num_pixels: luma pixels that the bits describe, T * H * W summed over the batch; a tensor is summed.

        Raises:
            ValueError: if a part is unknown, or there is no pixel.
        """
        for name in bits:
            if name not in self.parts:
                raise ValueError(f"part '{name}' of the bits is unknown" + nearest_names(name, self.parts))
        pixels = torch.as_tensor(num_pixels, device=self.num_pixels.device).sum()
        if pixels <= 0:
            raise ValueError(f"num_pixels is {pixels.item()}; expected T * H * W of the frames, at least 1")
        counts = [torch.as_tensor(bits.get(part, 0.0), dtype=torch.float64).sum() for part in self.parts]
        self.bits = self.bits + torch.stack(counts).to(self.bits.device)
        self.num_pixels = self.num_pixels + pixels

    def compute(self) -> dict[str, Tensor]:
        """Bits per pixel by part, then `total`; each `()`, float64."""
        bpp = self.bits / self.num_pixels
        return {**dict(zip(self.parts, bpp, strict=True)), "total": bpp.sum()}
