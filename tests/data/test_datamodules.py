from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser

from lvc_zoo.data.datamodules import BVIAOM, ClipData, ClipFolders, StillMotion, Vimeo90K
from lvc_zoo.data.datasets import ClipPhase
from lvc_zoo.data.still_motion import MovingStill
from tests.data.test_cache import write_picture, write_video
from tests.data.test_septuplets import archive  # noqa: F401
from tests.miniature import moving_clip

PHASES = [ClipPhase(3, 3, (1, 2)), ClipPhase(2, 5)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of two videos, 9 and 7 frames."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "one.mkv", moving_clip(9, 64, 80))
    write_video(folder / "two.mkv", moving_clip(7, 70, 130, seed=1))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def data(videos, cache):
    def make(**options):
        return ClipFolders([str(videos)], cache=cache, **{"batch_size": 2, "crop": 48} | options)

    return make


def followed(datamodule, phases=PHASES, **trainer):
    datamodule.follow(phases)
    if trainer:
        datamodule.trainer = SimpleNamespace(**{"global_step": 0, "global_rank": 0, "world_size": 1} | trainer)
    return datamodule


def frames_of(datamodule):
    return [batch.frames for batch in datamodule.train_dataloader()]


def test_batches_follow_the_phases(data):
    batches = list(followed(data()).train_dataloader())
    assert [tuple(batch.frames.shape) for batch in batches] == [(2, 3, 3, 48, 48)] * 3 + [(2, 5, 3, 48, 48)] * 2
    assert all(batch.stride[0] == batch.stride[1] for batch in batches)
    assert all(batch.frames.min() >= 0 and batch.frames.max() <= 1 for batch in batches)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_give_identical_batches(data):
    one, two = frames_of(followed(data())), frames_of(followed(data(num_workers=2)))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_resumed_run_sees_the_batches_of_an_unbroken_one(data):
    whole = frames_of(followed(data()))
    rest = frames_of(followed(data(), global_step=2))
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_ranks_share_the_batch_of_one_process(data):
    whole = frames_of(followed(data(batch_size=4)))
    ranks = [frames_of(followed(data(batch_size=2), global_rank=rank, world_size=2)) for rank in (0, 1)]
    assert all(torch.equal(a, torch.cat(b)) for a, b in zip(whole, zip(*ranks, strict=True), strict=True))


@pytest.mark.filterwarnings("ignore:.*(workers|isinstance|validation_step)")  # Lightning's own
def test_lightning_resumes_in_the_middle(data, tmp_path):
    class Watch(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), []

        def setup(self, stage):
            self.trainer.datamodule.follow(PHASES)

        def training_step(self, batch, batch_index):
            self.seen.append((self.global_step, float(batch.frames.double().sum())))
            return self.weight.sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    def run(steps, checkpoint=None):
        options = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = L.Trainer(max_steps=steps, accelerator="cpu", logger=False, use_distributed_sampler=False, **options)
        task = Watch()
        trainer.fit(task, data(), ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return task.seen

    whole = run(5)
    assert [step for step, _ in whole] == [0, 1, 2, 3, 4]
    assert run(2) + run(5, tmp_path / "last.ckpt") == whole


def test_validation_clips_are_whole_and_shared_by_ranks(data, videos):
    folders = {"val_folders": [str(videos)], "test_folders": [str(videos)], "val_frames": 7}
    both = [batch.frames for batch in data(**folders).val_dataloader()]
    assert [tuple(frames.shape) for frames in both] == [(1, 7, 3, 64, 64), (1, 7, 3, 64, 128)]
    for rank in (0, 1):
        datamodule = followed(data(**folders), global_rank=rank, world_size=2)
        for loader in (datamodule.val_dataloader, datamodule.test_dataloader, datamodule.predict_dataloader):
            (batch,) = loader()
            assert torch.equal(batch.frames, both[rank])


def test_no_validation_folder_means_no_validation(data):
    assert data().val_dataloader() == []


def test_more_processes_than_validation_clips_raises(data, videos):
    datamodule = followed(data(val_folders=[str(videos)]), global_rank=0, world_size=3)
    with pytest.raises(ValueError, match="hold 2 clips for 3 processes, expected at least one each"):
        datamodule.val_dataloader()


def test_phase_without_clips_raises_before_the_run(data):
    with pytest.raises(ValueError, match=r"has 11 frames without a cut.*lower num_frames"):
        data().follow([ClipPhase(3, 3), ClipPhase(3, 6, (1, 2))])


@pytest.mark.parametrize("phase", [ClipPhase(0, 3), ClipPhase(1, 0), ClipPhase(1, 3, (0,)), ClipPhase(1, 3, ())])
def test_phase_that_asks_for_nothing_raises(data, phase):
    with pytest.raises(ValueError, match="asks for nothing; steps, num_frames and every stride"):
        data().follow([phase])


def test_loader_before_follow_raises(data):
    with pytest.raises(ValueError, match=r"call follow\(phases\) first"):
        data().train_dataloader()
    with pytest.raises(ValueError, match="the run has no phase"):
        data().follow([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 40}, "crop is 40, expected a multiple of 16"),
        ({"val_crop": 100}, "val_crop is 100, expected a multiple of 64"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"weights": [1.0, 2.0]}, "expected a share for each of 1 folders"),
        ({"weights": [0.0]}, "expected a share for each of 1 folders"),
        ({"still_share": 0.5}, "expected a share in .* with folders, or neither"),
        ({"still_share": 1.0, "still_folders": ["a"]}, "StillMotion trains on stills alone"),
        ({"augment": ["rotation"]}, "augment holds 'rotation', expected some of"),
    ],
)
def test_wrong_argument_raises(data, options, message):
    with pytest.raises(ValueError, match=message):
        data(**options).follow(PHASES)


def test_no_folder_raises():
    with pytest.raises(ValueError, match="folders is empty; name at least one"):
        ClipFolders([])


def test_excluded_names_are_not_trained_on(data):
    (group,) = data(exclude=["two*"]).training_groups()
    assert [footage.num_frames for footage in group.footage] == [9]


def test_exclude_that_matches_nothing_raises(data):
    with pytest.raises(ValueError, match=r"exclude 'tow\.mkv' matches nothing in .*nearest .* 'two\.mkv'"):
        data(exclude=["tow.mkv"]).training_groups()
    with pytest.raises(ValueError, match="exclude leaves nothing of"):
        data(exclude=["*.mkv"]).training_groups()


def test_weights_and_still_share_set_the_groups(videos, cache, tmp_path):
    write_picture(tmp_path / "still.png", size=(70, 60))
    folders, stills = [str(videos), str(tmp_path)], [str(tmp_path)]
    groups = ClipFolders(
        folders, [3.0, 1.0], still_folders=stills, still_share=0.2, cache=cache, crop=48
    ).training_groups()
    assert [len(group.footage) for group in groups] == [2, 1, 1]
    assert [group.weight for group in groups] == pytest.approx([0.6, 0.2, 0.2])
    assert isinstance(groups[2].footage[0], MovingStill)


def test_still_motion_makes_clips_of_any_length(cache, tmp_path):
    write_picture(tmp_path / "still.png", size=(70, 60))
    datamodule = followed(StillMotion([str(tmp_path)], cache=cache, crop=48, batch_size=2), [ClipPhase(1, 9, (4,))])
    (one,), (two,) = frames_of(datamodule), frames_of(datamodule)
    assert one.shape == (2, 9, 3, 48, 48)
    assert torch.equal(one, two)
    assert not torch.equal(one[:, 0], one[:, 1])


def test_vimeo_batches_come_from_the_training_list(archive, cache):  # noqa: F811
    datamodule = followed(Vimeo90K([str(archive)], cache=cache, crop=256, augment=()), [ClipPhase(1, 7)])
    (frames,) = frames_of(datamodule)
    assert frames.shape == (8, 7, 3, 256, 256)
    assert (frames[:, :, 0, 0, 0] * 255).round().int().tolist() == [[1, 2, 3, 4, 5, 6, 7]] * 8
    held_out = Vimeo90K([str(archive)], cache=cache, val_folders=[str(archive)], val_frames=7).val_dataloader()
    assert [footage.name for footage in held_out.dataset.footage] == ["00001/0002"]
    # any folder of this layout is known by its list
    (group,) = ClipFolders([str(archive)], cache=cache, exclude=["00001/*"]).training_groups()
    assert [footage.name for footage in group.footage] == ["00002/0001"]


@pytest.mark.parametrize("name", ["ClipFolders", "Vimeo90K", "BVIAOM", "StillMotion"])
def test_recipe_entry_builds_every_datamodule(name):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ClipData, "data")
    entry = {"folders": ["a", "s3://b/c"], "weights": [2, 1], "crop": 64, "augment": ["horizontal"], "val_folders": []}
    config = parser.parse_object({"data": {"class_path": f"lvc_zoo.data.datamodules.{name}", "init_args": entry}})
    datamodule = parser.instantiate(config).data
    assert type(datamodule).__name__ == name
    assert (datamodule.folders, datamodule.crop, datamodule.augment) == (("a", "s3://b/c"), 64, ("horizontal",))
    with pytest.raises(ArgumentError, match="stride"):
        parser.parse_object({"data": {"class_path": name, "init_args": {**entry, "strides": [1]}}})


def test_missing_data_sets_raise_with_where_to_find_them(tmp_path, cache):
    with pytest.raises(FileNotFoundError, match=r"expected the septuplet archive .* from toflow"):
        Vimeo90K([str(tmp_path / "vimeo")], cache=cache).training_groups()
    with pytest.raises(FileNotFoundError, match=r"expected BVI-AOM's YUV or MP4 files.*Bristol"):
        BVIAOM([str(tmp_path / "bvi")], cache=cache).training_groups()


def test_bvi_aom_reads_raw_files(tmp_path, cache):
    codes = np.random.default_rng(0).integers(64, 940, 64 * 48 * 3 // 2, dtype=np.uint16)[None].repeat(2, axis=0)
    (tmp_path / "DPark_64x48_25fps_10bit_420.yuv").write_bytes(codes.astype("<u2").tobytes())
    datamodule = BVIAOM([str(tmp_path)], cache=cache, crop=48, batch_size=1)
    with pytest.warns(UserWarning, match="1 videos of"):
        datamodule.prepare_data()
    assert frames_of(followed(datamodule, [ClipPhase(1, 2)]))[0].shape == (1, 2, 3, 48, 48)
