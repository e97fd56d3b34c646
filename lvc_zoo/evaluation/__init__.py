"""Evaluation under stated test conditions."""

from .external import ExternalCodec

__all__ = ["ExternalCodec"]
