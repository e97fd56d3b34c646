"""JPEG behind the surface of our own codecs: the anchor of still pictures."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..codec.reader import FrameReader
from ..codec.video import MAX_Q, EncodedVideo, FrameRecord, atomic_output
from ..data.readers import read_picture
from ..gop import GopStructure


@dataclass(frozen=True, slots=True)
class JpegCodec:
    """Baseline JPEG by Pillow, 4:2:0, with Huffman tables made for the picture; clips of one frame alone."""

    @property
    def version(self) -> str:
        """The encoder."""
        import PIL

        return f"JPEG 4:2:0, optimised tables, Pillow {PIL.__version__}"

    def encode(
        self,
        reader: FrameReader,
        path: str | os.PathLike[str],
        q: float = 32,
        structure: GopStructure | None = None,
        *,
        quality: int | None = None,
    ) -> EncodedVideo:
        """Encode a picture.

        Args:
            reader: one frame.
            path: the file; any suffix.
            q: rate point, 0..63, which stands for qualities 5 to 95.
            structure: not read; every frame is an I frame.
            quality: JPEG's own setting, 1..95, in place of `q`.

        Raises:
            ValueError: for more or less than one frame, or a quality out of range.
        """
        from PIL import Image

        quality = round(5 + 90 * q / MAX_Q) if quality is None else quality
        if not 1 <= quality <= 95:
            raise ValueError(f"JPEG quality is {quality}, expected 1 to 95")
        frames = list(reader)
        if len(frames) != 1:
            raise ValueError(f"the clip has {len(frames)} frames, JPEG codes one; ask for --frames 1")
        codes = (frames[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
        with atomic_output(Path(path)) as file:
            Image.fromarray(codes.numpy()).save(file, "JPEG", quality=quality, subsampling="4:2:0", optimize=True)
        size = Path(path).stat().st_size
        return EncodedVideo(size, 1, reader.width * reader.height, [FrameRecord(0, "I", 0, size, 0)])

    def decode(self, path: str | os.PathLike[str]) -> Iterator[Tensor]:
        """The decoded frame `(3, H, W)`, RGB in [0, 1]."""
        yield read_picture(Path(path)).permute(2, 0, 1).float() / 255
