"""LightningDataModules."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Sampler

from ..errors import nearest_names
from .cache import is_excluded
from .datasets import (
    AUGMENTATIONS,
    VALIDATION_MULTIPLE,
    ClipPhase,
    RandomClips,
    TrainingClip,
    WholeClips,
    unique_labels,
)
from .folders import footage_of, names_in
from .footage import Footage, Group
from .septuplets import list_septuplets
from .shards import is_address, is_shards, list_shards
from .still_motion import MovingStill


class ClipData(L.LightningDataModule):
    """Batches of random clips for training, whole clips for validation and test.

    What clips look like (frames, strides, how many) is the stage table's business: the task says it through `follow`.

    Args:
        folders: to train on.
        weights: shares of the folders in the clips; None makes all sources, wherever they lie, equally likely.
        exclude: glob patterns of names to leave out of `folders`, for example against leakage from a test set.
        still_folders: whose frames are trained on with synthetic motion, beside `folders`.
        still_share: their share in the clips.
        batch_size: clips in a batch of one process; times the number of processes a multiple of the codec's anchors.
        crop: side of the square crop in pixels, a multiple of 16.
        num_workers: loader processes.
        seed: of clips, crops and augmentations.
        cache: where decoded frames are kept (about 0.7 MB a 640x360 frame).
        augment: of `datasets.AUGMENTATIONS`. CHOICE: all, as others train this family; the papers name the crop.
        val_folders: for validation, once a run unless `trainer.val_check_interval` asks for more; none = no validation.
        val_frames: length of a validation or test clip.
        val_crop: its longest side in pixels, a multiple of 64.
        test_folders: as `val_folders`, for `test` and `predict`.
    """

    def __init__(
        self,
        folders: Sequence[str],
        weights: Sequence[float] | None = None,
        *,
        exclude: Sequence[str] = (),
        still_folders: Sequence[str] = (),
        still_share: float = 0.0,
        batch_size: int = 8,
        crop: int = 128,
        num_workers: int = 0,
        seed: int = 0,
        cache: str = "runs/cache",
        augment: Sequence[str] = AUGMENTATIONS,
        val_folders: Sequence[str] = (),
        val_frames: int = 9,
        val_crop: int = 256,
        test_folders: Sequence[str] = (),
    ):
        super().__init__()
        # not for the logger, where the task's own "seed" and "weights" would clash with these
        self.save_hyperparameters(logger=False)
        if crop % 16 or crop < 16:
            raise ValueError(f"crop is {crop}, expected a multiple of 16")
        if val_crop % 64 or val_crop < 64:
            raise ValueError(f"val_crop is {val_crop}, expected a multiple of 64")
        if batch_size < 1 or val_frames < 1:
            raise ValueError(f"batch_size is {batch_size} and val_frames is {val_frames}, expected at least 1")
        if not folders:
            raise ValueError("folders is empty; name at least one to train on")
        if weights is not None and (len(weights) != len(folders) or min(weights) < 0 or not sum(weights)):
            raise ValueError(f"weights are {list(weights)}, expected a share for each of {len(folders)} folders")
        if not 0 <= still_share < 1 or bool(still_share) != bool(still_folders):
            raise ValueError(
                f"still_share is {still_share} and still_folders are {list(still_folders)}, expected a share in (0, 1) "
                "with folders, or neither; StillMotion trains on stills alone"
            )
        self.folders, self.weights, self.exclude = tuple(folders), weights, tuple(exclude)
        self.still_folders, self.still_share = tuple(still_folders), still_share
        self.batch_size, self.crop, self.num_workers, self.seed = batch_size, crop, num_workers, seed
        self.cache, self.augment, self.val_frames, self.val_crop = cache, tuple(augment), val_frames, val_crop
        self.val_folders, self.test_folders = tuple(val_folders), tuple(test_folders)
        self._phases: tuple[ClipPhase, ...] = ()
        self._smallest = VALIDATION_MULTIPLE
        self._groups: tuple[Group, ...] = ()

    def footage(self, folder: str, exclude: Sequence[str] = ()) -> list[Footage]:
        """What a folder holds, decoding what is not in the cache yet."""
        return footage_of(folder, self.cache, exclude)

    def held_out(self, folder: str) -> list[Footage]:
        """What a folder holds for validation and test; of Vimeo-90K its own test list."""
        return footage_of(folder, self.cache, is_held_out=True)

    def training_groups(self) -> list[Group]:
        """The footage to train on, decoding what is not in the cache yet."""
        self._check_exclude()
        found = [tuple(self.footage(folder, self.exclude)) for folder in self.folders]
        if self.weights is None:
            groups = [Group(tuple(footage for group in found for footage in group))]
        else:
            total = sum(self.weights)
            groups = [Group(footage, weight / total) for footage, weight in zip(found, self.weights, strict=True)]
        if self.still_folders:
            stills = [still for folder in self.still_folders for still in footage_of(folder, self.cache)]
            groups = [Group(group.footage, group.weight * (1 - self.still_share)) for group in groups]
            groups.append(Group(tuple(MovingStill.of(still) for still in stills), self.still_share))
        return groups

    def _check_exclude(self) -> None:
        names = [name for folder in self.folders for name in names_in(folder, self.cache)] if self.exclude else []
        for pattern in self.exclude:
            if not any(is_excluded(name, [pattern]) for name in names):
                raise ValueError(
                    f"exclude {pattern!r} matches nothing in {', '.join(self.folders)}"
                    f"{nearest_names(pattern, names)}; mend the pattern or leave it out"
                )
        if names and all(is_excluded(name, self.exclude) for name in names):
            raise ValueError(f"exclude leaves nothing of {', '.join(self.folders)}; give fewer patterns")

    def prepare_data(self) -> None:
        """Decode everything that the run needs and the cache lacks; Lightning calls it in one process a machine."""
        if self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING:
            self.training_groups()
        for folder in (*self.val_folders, *self.test_folders):
            self.held_out(folder)

    def setup(self, stage: str) -> None:
        """List the footage."""
        if stage == "fit":
            self._groups = tuple(self.training_groups())

    def follow(self, phases: Sequence[ClipPhase], smallest: int = VALIDATION_MULTIPLE) -> None:
        """Take over the shapes of the run's clips, and check that there are clips for every one.

        Args:
            phases: of the run.
            smallest: side that its loss asks of whole clips.

        Raises:
            ValueError: where a phase finds no clip long and large enough, or asks for nothing.
        """
        for phase in phases:
            if min(phase.steps, phase.num_frames, *phase.strides, len(phase.strides)) < 1:
                raise ValueError(f"{phase} asks for nothing; steps, num_frames and every stride must be at least 1")
        if not phases:
            raise ValueError("the run has no phase; give at least one stage")
        self._phases, self._smallest = tuple(phases), smallest
        self._clips()

    def _clips(self) -> RandomClips:
        if not self._phases:
            raise ValueError("it is not known which clips the run needs; call follow(phases) first, as the tasks do")
        if not self._groups:
            self.setup("fit")
        return RandomClips(
            self._groups,
            self._phases,
            crop=self.crop,
            batch_size=self.batch_size * self._processes()[1],
            augment=self.augment,
            seed=self.seed,
        )

    def _processes(self) -> tuple[int, int]:
        """This process's rank, and their number."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader[TrainingClip]:
        """Batches of clips, frames `(B, T, 3, crop, crop)`, from the trainer's step to the end of the last phase."""
        clips = self._clips()
        batches = StepBatches(self, len(clips) // clips.batch_size, self.batch_size, *self._processes())
        return StepLoader(
            clips, batch_sampler=batches, num_workers=self.num_workers, persistent_workers=self.num_workers > 0
        )

    def val_dataloader(self) -> DataLoader[TrainingClip] | list[Any]:
        """Whole clips one by one, frames `(1, T, 3, H, W)`; every process takes its share."""
        return self._whole(self.val_folders)

    def test_dataloader(self) -> DataLoader[TrainingClip] | list[Any]:
        """As `val_dataloader`, of `test_folders`."""
        return self._whole(self.test_folders)

    def predict_dataloader(self) -> DataLoader[TrainingClip] | list[Any]:
        """As `test_dataloader`."""
        return self._whole(self.test_folders)

    def _whole(self, folders: Sequence[str]) -> DataLoader[TrainingClip] | list[Any]:
        footage = [footage for folder in folders for footage in self.held_out(folder)]
        rank, processes = self._processes()
        if not footage:
            return []
        if len(footage) < processes:
            raise ValueError(
                f"{', '.join(folders)} hold {len(footage)} clips for {processes} processes, expected at least one each"
            )
        labels = unique_labels([source.name for source in footage])
        clips = WholeClips(
            footage[rank::processes],
            num_frames=self.val_frames,
            crop=self.val_crop,
            smallest=self._smallest,
            labels=labels[rank::processes],
        )
        return DataLoader(clips, num_workers=self.num_workers)


class StepBatches(Sampler[list[int]]):
    """Indices of the items of each step, from the step at which the trainer stands when an iteration begins.

    Its length is that of the whole run, since Lightning counts the batches before a resumed step as taken.

    Args:
        datamodule: whose trainer tells the step; without one, 0.
        steps: of the whole run.
        batch_size: of one process.
        rank: of this process.
        processes: their number.
    """

    def __init__(self, datamodule: L.LightningDataModule, steps: int, batch_size: int, rank: int, processes: int):
        self._datamodule, self._steps = datamodule, steps
        self._batch_size, self._rank, self._processes = batch_size, rank, processes

    def __len__(self) -> int:
        """Number of steps of the whole run."""
        return self._steps

    def __iter__(self) -> Iterator[list[int]]:
        """Indices of this process's items, step by step."""
        first = self._datamodule.trainer.global_step if self._datamodule.trainer else 0
        for step in range(first, self._steps):
            start = (step * self._processes + self._rank) * self._batch_size
            yield list(range(start, start + self._batch_size))


class StepLoader(DataLoader[TrainingClip]):
    """A loader of `StepBatches`: it starts at the trainer's step, so a checkpoint needs no state of its own for it.

    Without these two methods Lightning warns that a resumed run would not be the same.
    """

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take over."""


class ClipFolders(ClipData):
    """Clips from any folders: of videos, of stills, of folders of numbered frames, of LitData's shards.

    Its arguments are those of `ClipData`.
    """


class Vimeo90K(ClipData):
    """The training septuplets of Vimeo-90K; `folders` hold the unpacked archive, or shards made from it.

    Its arguments are those of `ClipData`; `exclude` matches names such as "00001/0266".
    """

    def footage(self, folder: str, exclude: Sequence[str] = ()) -> list[Footage]:
        """See `ClipData`."""
        if is_shards(folder):
            return list_shards(folder, self.cache, exclude, is_held_out=False)
        return list_septuplets(folder, exclude)


class BVIAOM(ClipData):
    """The sequences of BVI-AOM (arXiv 2408.03265), 64 frames each; `folders` hold its YUV or MP4 files or shards.

    The paper of BiECVC leaves out, without naming them, sequences that are in test sets: `exclude` names them. Raw
    files carry size, depth and chroma format in their names: `NAME_1920x1080_25fps_10bit_420.yuv`.

    Its arguments are those of `ClipData`.
    """

    def footage(self, folder: str, exclude: Sequence[str] = ()) -> list[Footage]:
        """See `ClipData`."""
        if not is_address(folder) and not Path(folder).is_dir():
            raise FileNotFoundError(
                f"{folder} is not a folder; expected BVI-AOM's YUV or MP4 files, which the University of Bristol "
                "distributes (see arXiv 2408.03265); put them all into one folder"
            )
        return super().footage(folder, exclude)


class StillMotion(ClipData):
    """Clips of any length from stills, or from single frames of videos, with synthetic motion; see `MovingStill`.

    Its arguments are those of `ClipData`.
    """

    def footage(self, folder: str, exclude: Sequence[str] = ()) -> list[Footage]:
        """See `ClipData`."""
        return [MovingStill.of(still) for still in super().footage(folder, exclude)]
