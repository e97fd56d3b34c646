"""Readers, writers and clip datasets."""

from .clips import demo_clip
from .readers import FrameReader, TensorReader, open_video
from .writers import open_writer

__all__ = ["FrameReader", "TensorReader", "demo_clip", "open_video", "open_writer"]
