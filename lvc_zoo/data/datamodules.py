"""LightningDataModules."""

from collections.abc import Sequence
from pathlib import Path

import lightning as L
from torch.utils.data import DataLoader

from .datasets import RandomClips, TrainingClip, decode_folder


class ClipFolders(L.LightningDataModule):
    """Random crops of the videos and stills in some folders.

    Args:
        folders: of videos and pictures.
        cache: where decoded frames are kept (about 0.7 MB a 640x360 frame).
        steps: number of batches in an epoch.
        batch_size: clips in a batch; a multiple of the codec's anchors.
        num_frames: frames of a clip.
        crop: side of the square crop in pixels, a multiple of 64.
        strides: temporal distances between neighbouring frames.
        num_workers: loader processes.
        seed: of crops and flips.
    """

    def __init__(
        self,
        folders: Sequence[str],
        cache: str = "runs/cache",
        *,
        steps: int = 1000,
        batch_size: int = 8,
        num_frames: int = 1,
        crop: int = 128,
        strides: tuple[int, ...] = (1,),
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        if crop % 16:
            raise ValueError(f"crop is {crop}, expected a multiple of 16")
        self.save_hyperparameters()
        self._arrays: list[Path] = []

    def prepare_data(self) -> None:
        """Decode what is not in the cache yet."""
        for folder in self.hparams["folders"]:
            decode_folder(folder, self._cache_of(folder))

    def setup(self, stage: str) -> None:
        """List the decoded clips."""
        self._arrays = [
            path for folder in self.hparams["folders"] for path in decode_folder(folder, self._cache_of(folder))
        ]

    def _cache_of(self, folder: str) -> Path:
        return Path(self.hparams["cache"]) / Path(folder).name

    def train_dataloader(self) -> DataLoader[TrainingClip]:
        """Batches of clips, frames `(B, T, 3, crop, crop)`, in the order of their index."""
        p = self.hparams
        clips = RandomClips(
            self._arrays,
            length=p["steps"] * p["batch_size"],
            num_frames=p["num_frames"],
            crop=p["crop"],
            strides=tuple(p["strides"]),
            batch_size=p["batch_size"],
            seed=p["seed"],
        )
        return DataLoader(clips, batch_size=p["batch_size"], num_workers=p["num_workers"])
