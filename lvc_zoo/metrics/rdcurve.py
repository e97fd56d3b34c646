"""Rate and quality at each rate anchor of a codec, and BD-rate against a stored curve: for validation loops."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from .bdrate import RDCurve, bd_rate


class RDCurveMetric(Metric):
    """Mean bits per pixel and mean PSNR at each anchor, and the BD-rate of the curve through them.

    Args:
        anchors: number of rate anchors, at least 1.
        reference: the curve that BD-rate is against; None leaves it nan.
        **kwargs: settings of `torchmetrics.Metric`.

    Raises:
        ValueError: if there is no anchor.
        ImportError: if a reference is given and the `eval` extra is not installed.

    Example:
        >>> points = ((0.1, 30.0), (0.2, 33.0), (0.4, 36.0), (0.8, 39.0))
        >>> metric = RDCurveMetric(4, RDCurve(name="x265", points=points))
        >>> for anchor, (rate, psnr) in enumerate(points):
        ...     metric.update(anchor, torch.tensor(rate / 2), torch.tensor(psnr))
        >>> round(metric.compute()["bd_rate"].item(), 4)
        -50.0
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, anchors: int, reference: RDCurve | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if anchors < 1:
            raise ValueError(f"anchors is {anchors}; expected at least 1, the number of lambdas of the codec")
        if reference is not None and find_spec("bjontegaard") is None:
            raise ImportError("BD-rate needs the package bjontegaard; run: pip install 'lvc_zoo[eval]'")
        self.anchors = anchors
        self.reference = reference
        for name in ("rate_bpp", "psnr_db", "count"):
            self.add_state(name, torch.zeros(anchors, dtype=torch.float64), dist_reduce_fx="sum")
        self.rate_bpp: Tensor
        self.psnr_db: Tensor
        self.count: Tensor

    def update(self, anchor: int | Tensor, rate_bpp: Tensor, psnr_db: Tensor) -> None:
        """Adds clips.

        Args:
            anchor: index of the anchor, 0 = lowest rate; for all, or `(B,)`.
            rate_bpp: bits per pixel of each clip, `()` or `(B,)`.
            psnr_db: PSNR of each clip in dB, the same shape.

        Raises:
            ValueError: if the shapes differ, or an anchor is not there.
        """
        rate_bpp, psnr_db = (value.detach().to(self.count).reshape(-1) for value in (rate_bpp, psnr_db))
        index = torch.as_tensor(anchor, device=self.count.device).long().reshape(-1).expand(len(rate_bpp))
        if rate_bpp.shape != psnr_db.shape:
            raise ValueError(
                f"rate_bpp has {len(rate_bpp)} values and psnr_db has {len(psnr_db)}; expected one of each a clip"
            )
        if not bool(((index >= 0) & (index < self.anchors)).all()):
            raise ValueError(f"anchor is {index.tolist()}; expected 0 to {self.anchors - 1}, the lowest rate first")
        self.rate_bpp = self.rate_bpp.index_add(0, index, rate_bpp)
        self.psnr_db = self.psnr_db.index_add(0, index, psnr_db)
        self.count = self.count.index_add(0, index, torch.ones_like(rate_bpp))

    def compute(self) -> dict[str, Tensor]:
        """`bpp_<anchor>` and `psnr_db_<anchor>`, nan where nothing was seen, and `bd_rate` in percent.

        `bd_rate` is nan where it is undefined: without a reference, with fewer anchors than a curve needs, where
        quality does not rise with the rate, and where the curves hardly overlap.
        """
        rates, psnrs = self.rate_bpp / self.count, self.psnr_db / self.count
        values = {f"bpp_{anchor}": rate for anchor, rate in enumerate(rates)}
        values |= {f"psnr_db_{anchor}": psnr for anchor, psnr in enumerate(psnrs)}
        return values | {"bd_rate": torch.tensor(self._bd_rate(rates, psnrs), device=rates.device)}

    def _bd_rate(self, rates: Tensor, psnrs: Tensor) -> float:
        if self.reference is None:
            return torch.nan
        points = tuple(zip(rates.tolist(), psnrs.tolist(), strict=True))
        try:
            return bd_rate(self.reference, RDCurve(name="measured", points=points))
        except ValueError:
            return torch.nan
