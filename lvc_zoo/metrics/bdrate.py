"""BD-rate: the average rate difference of two codecs at equal quality (Bjontegaard, VCEG-M33)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

FEWEST_POINTS = 4
"""A curve through fewer points says more about the interpolation than about the codec."""


class RDPoint(NamedTuple):
    """One operating point of a codec."""

    rate_bpp: float
    psnr_db: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RDCurve:
    """The operating points of one codec under one test condition, kept in order of rate.

    Args:
        name: what an error message calls the curve.
        points: (bpp, PSNR in dB) pairs in any order; at least `FEWEST_POINTS`, both rising together.

    Raises:
        ValueError: if there are too few points, a value is not finite, a rate is not positive, or PSNR does not rise
            strictly with the rate.

    Example:
        >>> curve = RDCurve(name="x265", points=((0.4, 36.0), (0.1, 30.0), (0.2, 33.0), (0.8, 39.0)))
        >>> curve.points[0]
        RDPoint(rate_bpp=0.1, psnr_db=30.0)
    """

    name: str
    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        points = sorted(RDPoint(float(rate), float(psnr)) for rate, psnr in self.points)
        object.__setattr__(self, "points", tuple(points))
        if len(points) < FEWEST_POINTS:
            raise ValueError(
                f"curve '{self.name}' has {len(points)} points; expected at least {FEWEST_POINTS}; code more rates"
            )
        for rate, psnr in points:
            if not (math.isfinite(rate) and math.isfinite(psnr) and rate > 0):
                raise ValueError(
                    f"curve '{self.name}' has a point of {rate} bpp and {psnr} dB; expected a positive rate and finite "
                    "values; leave out lossless and failed runs"
                )
        for low, high in pairwise(points):
            if not (high.rate_bpp > low.rate_bpp and high.psnr_db > low.psnr_db):
                raise ValueError(
                    f"curve '{self.name}' is not monotone: {low.psnr_db:.4g} dB at {low.rate_bpp:.4g} bpp, then "
                    f"{high.psnr_db:.4g} dB at {high.rate_bpp:.4g} bpp; expected PSNR to rise with the rate, or "
                    "BD-rate is undefined; check how these two points were coded"
                )


def bd_rate(
    anchor: RDCurve, test: RDCurve, *, method: Literal["pchip", "akima"] = "pchip", min_overlap: float = 0.5
) -> float:
    """Average difference in rate of `test` against `anchor` at equal PSNR, in percent; negative means a saving.

    Args:
        anchor: the curve that is the reference.
        test: the curve that is judged.
        method: interpolation of log-rate over PSNR; name it beside the result.
        min_overlap: smallest accepted share of the curves' joint PSNR range that both of them cover, in `[0, 1]`.

    Returns:
        Percent.

    Raises:
        ValueError: if the method is unknown, or the curves share less of the PSNR range than `min_overlap` or none.
        ImportError: if the `eval` extra is not installed.

    Example:
        >>> anchor = RDCurve(name="x265", points=((0.1, 30.0), (0.2, 33.0), (0.4, 36.0), (0.8, 39.0)))
        >>> test = RDCurve(name="half", points=tuple((rate / 2, psnr) for rate, psnr in anchor.points))
        >>> round(bd_rate(anchor, test), 6)
        -50.0
    """
    if method not in ("pchip", "akima"):
        raise ValueError(f"BD-rate method is '{method}'; expected 'pchip' or 'akima'; name one of these")
    rate_anchor, psnr_anchor = zip(*anchor.points, strict=True)
    rate_test, psnr_test = zip(*test.points, strict=True)
    shared = min(psnr_anchor[-1], psnr_test[-1]) - max(psnr_anchor[0], psnr_test[0])
    overlap = max(shared, 0.0) / (max(psnr_anchor[-1], psnr_test[-1]) - min(psnr_anchor[0], psnr_test[0]))
    if overlap == 0 or overlap < min_overlap:
        raise ValueError(
            f"curves '{anchor.name}' ({psnr_anchor[0]:.2f} to {psnr_anchor[-1]:.2f} dB) and '{test.name}' "
            f"({psnr_test[0]:.2f} to {psnr_test[-1]:.2f} dB) share {overlap:.0%} of their PSNR range; expected at "
            f"least {min_overlap:.0%} and more than none; code rate points nearer to each other or lower min_overlap"
        )
    try:
        import bjontegaard
    except ImportError as error:
        raise ImportError("BD-rate needs the package bjontegaard; run: pip install 'lvc_zoo[eval]'") from error
    return float(
        bjontegaard.bd_rate(
            rate_anchor, psnr_anchor, rate_test, psnr_test, method, require_matching_points=False, min_overlap=0
        )
    )
