"""Exceptions that callers can tell apart; wrong arguments raise plain ValueError."""

from __future__ import annotations


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
