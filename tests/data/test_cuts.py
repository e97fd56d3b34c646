import numpy as np
import pytest

from lvc_zoo.color import ColorSpec
from lvc_zoo.data import demo_clip, open_video
from lvc_zoo.data.cache import to_codes
from lvc_zoo.data.cuts import find_cuts, thumbnail
from tests.miniature import moving_clip


def shot(num_frames, seed, brightness=1.0):
    frames = moving_clip(num_frames, 72, 128, seed) * brightness
    return (frames * 255).byte().permute(0, 2, 3, 1).numpy()


def picture(seed, width=600):
    """Sharp blocks of random colour, as rich in edges as a street."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, width // 30, 3), dtype=np.uint8)
    return blocks.repeat(12, axis=0).repeat(30, axis=1)


def cuts_of(frames):
    return find_cuts(np.stack([thumbnail(frame) for frame in frames]))


def test_thumbnail_holds_area_means():
    frame = np.random.default_rng(0).integers(0, 256, (36, 64, 3), dtype=np.uint8)
    expected = frame.reshape(18, 2, 32, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(thumbnail(frame), expected, atol=1e-6)


def test_cut_between_shots_is_found_at_the_first_new_frame():
    dark = shot(6, seed=3, brightness=0.4)
    assert cuts_of(np.concatenate([shot(7, seed=1), dark, shot(2, seed=1)])) == [7, 13]


def test_shot_of_one_frame_is_bounded_by_two_cuts():
    flash = np.full((1, 72, 128, 3), 255, np.uint8)
    assert cuts_of(np.concatenate([shot(6, seed=1), flash, shot(6, seed=1)])) == [6, 7]


def test_fade_is_not_a_cut():
    one, two = shot(14, seed=1).astype(float), shot(14, seed=3, brightness=0.4).astype(float)
    share = np.linspace(0, 1, 14)[:, None, None, None]
    assert cuts_of((one * (1 - share) + two * share).astype(np.uint8)) == []
    assert cuts_of((one * (1 - share)).astype(np.uint8)) == []


@pytest.mark.parametrize("speed", [2, 8, 24])
def test_pan_at_any_speed_is_not_a_cut(speed):
    wide = picture(seed=0)
    frames = np.stack([wide[:, t * speed : t * speed + 128] for t in range(16)])
    change = np.abs(np.diff(np.stack([thumbnail(f) for f in frames]), axis=0)).mean()
    assert cuts_of(frames) == []
    assert speed < 24 or change > 0.15


def test_cut_in_a_fast_pan_is_found():
    one, two = picture(seed=0), picture(seed=1) // 4
    frames = [one[:, t * 4 : t * 4 + 128] for t in range(8)] + [two[:, t * 4 : t * 4 + 128] for t in range(8)]
    assert cuts_of(np.stack(frames)) == [8]


def test_cuts_of_a_real_clip_are_those_that_the_eye_sees():
    frames = open_video(demo_clip(), frames=140, color=ColorSpec("bt601"))
    # a car that rushes past close by, at frames 99 and 100, is none
    assert cuts_of(map(to_codes, frames)) == [30, 76, 137]


def test_clip_of_one_frame_has_no_cut():
    assert cuts_of(shot(1, seed=0)) == []
