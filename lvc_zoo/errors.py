"""Exceptions that callers can tell apart; wrong arguments raise plain ValueError."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class BitstreamError(Exception):
    """Bytes that are not a stream this codec can decode: truncated, damaged, spliced or foreign.

    Args:
        message: what is wrong, got, expected and the remedy.
        poc: display index of the frame where decoding stopped, None where no frame is concerned.

    Example:
        >>> BitstreamError("payload CRC differs", poc=7).poc
        7
    """

    def __init__(self, message: str, *, poc: int | None = None) -> None:
        super().__init__(message)
        self.poc = poc


class DesyncError(BitstreamError):
    """Sound bytes on which this decoder disagrees with the encoder (other weights, other hardware)."""


class WeightsError(ValueError):
    """Weights that are missing, incomplete, altered or of another model."""


def nearest_names(name: object, known: Iterable[str]) -> str:
    """Gives the end of a message about an unknown name: the nearest known ones, or all where none is near.

    Example:
        >>> nearest_names("biecvc-tny", ["biecvc", "biecvc-tiny", "lstec"])
        "; the nearest are 'biecvc-tiny', 'biecvc'"
        >>> nearest_names("x", ["alpha", "beta"])
        "; known are 'alpha', 'beta'"
    """
    known = list(known)
    near = get_close_matches(str(name), known, n=3)
    if near:
        return f"; the nearest {'is' if len(near) == 1 else 'are'} " + ", ".join(map(repr, near))
    return "; known are " + ", ".join(map(repr, known)) if known else "; none is known"
