"""Evaluation under stated test conditions."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .external import ExternalCodec

__all__ = ["ExternalCodec"]


def __getattr__(name: str) -> object:
    # on demand: the command line asks this package for its options, and PyAV takes long to load
    if name == "ExternalCodec":
        from .external import ExternalCodec

        return ExternalCodec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
