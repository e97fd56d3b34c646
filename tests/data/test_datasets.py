from dataclasses import dataclass

import numpy as np
import pytest
import torch

from lvc_zoo.data.datasets import ClipPhase, RandomClips, WholeClips
from lvc_zoo.data.footage import Footage, Group


@dataclass(frozen=True, slots=True)
class Counting(Footage):
    """A pixel's red is its time, green its row, blue its column."""

    def read(self, times, window, random):
        frames = np.zeros((len(times), window.height, window.width, 3), dtype=np.uint8)
        frames[..., 0] = np.array(times)[:, None, None]
        frames[..., 1] = np.arange(window.height)[:, None] + window.top
        frames[..., 2] = np.arange(window.width) + window.left
        return frames


def clips(*footage, phases=((4, 3),), **options):
    settings = {"crop": 16, "batch_size": 2, "augment": (), "seed": 5} | options
    return RandomClips([Group(footage)], [ClipPhase(*phase) for phase in phases], **settings)


def codes(clip):
    return (clip.frames * 255).round().int()


def times(clip):
    return codes(clip)[:, 0, 0, 0].tolist()


def test_item_is_a_function_of_seed_index_and_phase_alone():
    footage, first = Counting("a", 40, 33, 47), ClipPhase(4, 3, (1, 2))
    one = clips(footage, phases=(first, ClipPhase(4, 5)))
    two = clips(footage, phases=(first, ClipPhase(2, 2), ClipPhase(2, 9)))
    assert [len(one), len(two)] == [16, 16]
    assert all(torch.equal(one[i].frames, two[i].frames) for i in range(8))
    assert not torch.equal(one[6].frames, one[7].frames)
    assert not torch.equal(one[6].frames, clips(footage, seed=6)[6].frames)


def test_frames_of_an_item_lie_a_stride_apart_in_one_square():
    dataset = clips(Counting("a", 40, 33, 47), phases=(ClipPhase(8, 3, (1, 2, 4)),))
    strides = set()
    for step in range(8):
        pair = dataset[2 * step], dataset[2 * step + 1]
        assert pair[0].stride == pair[1].stride
        strides.add(int(pair[0].stride))
        for clip in pair:
            assert np.diff(times(clip)).tolist() == [int(clip.stride)] * 2
            assert clip.frames.shape == (3, 3, 16, 16)
            rows, columns = codes(clip)[0, 1, :, 0], codes(clip)[0, 2, 0, :]
            assert rows.diff().eq(1).all()
            assert columns.diff().eq(1).all()
    assert strides == {1, 2, 4}


def test_phases_change_the_shape_at_their_step():
    dataset = clips(Counting("a", 40, 33, 47), phases=(ClipPhase(1, 1), ClipPhase(2, 4)))
    assert [len(dataset[i].frames) for i in range(len(dataset))] == [1, 1, 4, 4, 4, 4]


def test_no_clip_spans_a_cut_and_every_other_start_is_met():
    dataset = clips(Counting("a", 12, 16, 16, cuts=(2, 7)), phases=(ClipPhase(100, 3),))
    starts = {times(dataset[i])[0] for i in range(len(dataset))}
    assert starts == {2, 3, 4, 7, 8, 9}


@pytest.mark.parametrize("name", ["horizontal", "vertical", "reversal"])
def test_augmentation_turns_half_of_the_clips(name):
    axis, part = {"horizontal": (2, 2), "vertical": (1, 1), "reversal": (0, 0)}[name]
    dataset = clips(Counting("a", 40, 33, 47), phases=(ClipPhase(100, 3),), augment=(name,))
    steps = [int(codes(dataset[i])[:, part].diff(dim=axis).unique()) for i in range(200)]
    assert set(steps) == {1, -1}
    assert 70 < steps.count(-1) < 130


def test_groups_are_drawn_by_weight_and_sources_of_one_with_equal_chance():
    long, short, other = Counting("a", 90, 16, 16), Counting("b", 3, 16, 17), Counting("c", 9, 16, 18)
    groups = [Group((long, short), 3.0), Group((other,), 1.0), Group((other,), 0.0)]
    drawn = []

    @dataclass(frozen=True, slots=True)
    class Watched(Counting):
        def read(self, times, window, random):
            drawn.append(self.name)
            return Counting.read(self, times, window, random)

    watched = [
        Group(tuple(Watched(f.name, f.num_frames, f.height, f.width) for f in group.footage), group.weight)
        for group in groups
    ]
    dataset = RandomClips(watched, [ClipPhase(400, 3)], crop=16, batch_size=1)
    for i in range(400):
        dataset[i]
    shares = {name: drawn.count(name) / 400 for name in "abc"}
    assert shares == pytest.approx({"a": 0.375, "b": 0.375, "c": 0.25}, abs=0.07)


def test_group_without_clips_for_a_phase_leaves_it_to_the_others():
    short, long = Counting("a", 7, 16, 16), Counting("b", 64, 16, 16)
    dataset = RandomClips([Group((short,), 9.0), Group((long,), 1.0)], [ClipPhase(3, 33)], crop=16, batch_size=1)
    assert len(dataset[2].frames) == 33


def test_phase_without_any_clip_raises():
    footage = Counting("a", 9, 40, 60, cuts=(2,))
    message = (
        r"none of 1 clips has 9 frames without a cut.*longest shot has 7 frames.*lower num_frames, strides or crop"
    )
    with pytest.raises(ValueError, match=message):
        clips(footage, phases=(ClipPhase(1, 3), ClipPhase(1, 5, (1, 2))))
    with pytest.raises(ValueError, match=r"at least 48x48.*largest short side is 40"):
        clips(footage, crop=48)


def test_unknown_augmentation_raises():
    with pytest.raises(ValueError, match="augment holds 'rotate', expected some of horizontal"):
        clips(Counting("a", 9, 40, 60), augment=("rotate",))


def test_whole_clips_are_cropped_about_the_middle_to_multiples_of_64():
    clip = WholeClips([Counting("a", 9, 101, 250)], num_frames=5, crop=128)[0]
    assert clip.frames.shape == (5, 3, 64, 128)
    assert codes(clip)[0, 1:, 0, 0].tolist() == [18, 61]
    assert times(clip) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("footage", [Counting("a", 4, 64, 64), Counting("a", 9, 63, 64)])
def test_whole_clips_of_too_little_raises(footage):
    with pytest.raises(ValueError, match="expected at least 5 of 64x64 for validation"):
        WholeClips([footage], num_frames=5, crop=64)
