"""Training clips: decoded once into memory-mapped arrays, then cropped at places that depend only on the index."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .readers import open_video

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".y4m")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def decode_folder(folder: str | Path, cache: str | Path) -> list[Path]:
    """Decode every video and still of a folder into `.npy` files, skipping those that are there.

    Args:
        folder: searched without descending; stills become one-frame clips.
        cache: folder for the arrays, uint8 `(T, H, W, 3)` RGB; created.

    Returns:
        Paths of the arrays, sorted.

    Raises:
        ValueError: where the folder holds neither videos nor pictures.
    """
    sources = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in VIDEO_SUFFIXES + IMAGE_SUFFIXES)
    if not sources:
        raise ValueError(f"{folder} holds no video or picture ({', '.join(VIDEO_SUFFIXES + IMAGE_SUFFIXES)})")
    Path(cache).mkdir(parents=True, exist_ok=True)
    return [_decode(source, Path(cache)) for source in sources]


def _decode(source: Path, cache: Path) -> Path:
    target = cache / f"{source.stem}.npy"
    if not target.exists():
        if source.suffix.lower() in IMAGE_SUFFIXES:
            from PIL import Image

            frames = np.asarray(Image.open(source).convert("RGB"))[None]
        else:
            rounded = [(frame * 255).round().to(torch.uint8).permute(1, 2, 0).numpy() for frame in open_video(source)]
            frames = np.stack(rounded)
        partial = target.with_suffix(".part.npy")
        np.save(partial, frames)
        partial.rename(target)
    return target


class TrainingClip(NamedTuple):
    """Frames `(T, 3, H, W)` in [0, 1] and the temporal distance between two of them; batched, both gain a dimension."""

    frames: Tensor
    stride: Tensor


class RandomClips(Dataset[TrainingClip]):
    """Random crops of equally spaced frames; item i is a function of the seed and i, so a run resumes exactly.

    Args:
        arrays: `.npy` files, uint8 `(T, H, W, 3)`.
        length: number of items.
        num_frames: frames of an item.
        crop: side of the square crop in pixels.
        strides: temporal distances between neighbouring frames, drawn with equal chance, one a batch.
        batch_size: items that share a stride.
        seed: of the run.
    """

    def __init__(
        self,
        arrays: Sequence[Path],
        *,
        length: int,
        num_frames: int,
        crop: int,
        strides: tuple[int, ...] = (1,),
        batch_size: int = 1,
        seed: int = 0,
    ):
        span = (num_frames - 1) * max(strides) + 1
        self._clips = [np.load(path, mmap_mode="r") for path in arrays]
        self._clips = [clip for clip in self._clips if clip.shape[0] >= span and min(clip.shape[1:3]) >= crop]
        if not self._clips:
            raise ValueError(
                f"none of {len(arrays)} clips has {span} frames of at least {crop}x{crop}; "
                "lower num_frames, strides or crop"
            )
        self.length, self.num_frames, self.crop, self.seed = length, num_frames, crop, seed
        self.strides, self.batch_size = strides, batch_size

    def __len__(self) -> int:
        """Number of items."""
        return self.length

    def __getitem__(self, index: int) -> TrainingClip:
        """One random clip."""
        stride = int(self._random("stride", index // self.batch_size).choice(self.strides))
        random = self._random("clip", index)
        clip = self._clips[random.integers(len(self._clips))]
        span = (self.num_frames - 1) * stride + 1
        start = random.integers(clip.shape[0] - span + 1)
        top, left = (random.integers(side - self.crop + 1) for side in clip.shape[1:3])
        part = clip[start : start + span : stride, top : top + self.crop, left : left + self.crop]
        if random.random() < 0.5:
            part = part[:, :, ::-1]
        if random.random() < 0.5:
            part = part[::-1]
        frames = torch.from_numpy(np.ascontiguousarray(part)).permute(0, 3, 1, 2).float() / 255
        return TrainingClip(frames, torch.tensor(stride))

    def _random(self, what: str, index: int) -> np.random.Generator:
        key = hashlib.sha256(f"{self.seed}/{what}/{index}".encode()).digest()
        return np.random.default_rng(int.from_bytes(key[:8], "little"))
