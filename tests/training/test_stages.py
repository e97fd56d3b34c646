"""Stage tables: where a step belongs, its learning rate, and bad rows."""

import math

import pytest

from lvc_zoo.training import schedules
from lvc_zoo.training.stages import Stage, stage_at, total_steps
from lvc_zoo.training.tasks import BiECVCTask, LSTECTask
from tests.training.by_hand import SMALL, stage


@pytest.mark.parametrize(("step", "name", "first"), [(0, "a", 0), (2, "a", 0), (3, "b", 3), (7, "b", 3), (99, "b", 3)])
def test_stage_at_step_gives_row_and_first_step(step, name, first):
    table = [stage(name="a", steps=3), stage(name="b", steps=5)]
    found, start = stage_at(table, step)
    assert (found.name, start) == (name, first)
    assert total_steps(table) == 8


def test_learning_rate_follows_warm_up_and_cosine():
    row = stage(steps=110, warmup_steps=10, learning_rate=2e-3, final_learning_rate=1e-3)
    assert [row.learning_rate_at(step) for step in (0, 4, 9)] == pytest.approx([2e-4, 1e-3, 2e-3])
    middle = 1e-3 + 1e-3 * (1 + math.cos(math.pi / 2)) / 2
    assert [row.learning_rate_at(step) for step in (60, 110, 500)] == pytest.approx([middle, 1e-3, 1e-3])


def test_learning_rate_equal_to_final_is_constant():
    row = stage(learning_rate=1e-4, final_learning_rate=1e-4, steps=50)
    assert {row.learning_rate_at(step) for step in range(50)} == {1e-4}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"trained": "everything"}, "trained is 'everything', expected one of"),
        ({"rate": ("hyper",)}, "hyper latents count with their own"),
        ({"strides": ()}, "strides are"),
        ({"warmup_steps": 9}, "lower it"),
        ({"warp_weight": -1.0}, "expected 0 or more"),
    ],
)
def test_bad_row_raises(entry, message):
    with pytest.raises(ValueError, match=message):
        stage(**entry)


@pytest.mark.parametrize("num_frames", [2, 6])
def test_biecvc_clip_of_wrong_length_raises_when_built(num_frames):
    with pytest.raises(ValueError, match=r"stage 'test': clips have \d frames, expected one more than a power of two"):
        BiECVCTask("biecvc-tiny", overrides=SMALL, stages=[stage(num_frames=num_frames)])


def test_clip_without_trained_frames_raises_when_built():
    with pytest.raises(ValueError, match="no frame is of type P; raise num_frames"):
        LSTECTask("lstec-tiny", overrides=SMALL, stages=[stage(num_frames=1)])


def test_paper_tables_have_the_papers_epochs():
    epochs = {name: total_steps(getattr(schedules, name)) / schedules.VIMEO_EPOCH for name in ("FAMILY", "LSTEC")}
    assert epochs == {"FAMILY": 30, "LSTEC": 33 + 5}
    last = schedules.BIECVC[-1]
    assert (last.num_frames, last.learning_rate, last.learning_rate_at(last.steps)) == (33, 1e-6, 1e-6)
    assert [row.num_frames for row in schedules.LSTEC] == [2, 2, 2, 2, 2, 3, 5, 5, 5, 5]
    assert isinstance(schedules.ms_ssim_fine_tuning(schedules.LSTEC)[0], Stage)
    assert total_steps(schedules.ms_ssim_fine_tuning(schedules.LSTEC)) == 3 * schedules.VIMEO_EPOCH
