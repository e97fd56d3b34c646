from dataclasses import dataclass

import numpy as np
import pytest
import torch

from lvc_zoo.data import still_motion
from lvc_zoo.data.footage import Footage, Window
from lvc_zoo.data.still_motion import MovingStill


@dataclass(frozen=True, slots=True)
class Photograph(Footage):
    """Smooth random texture, or of one colour."""

    flat: bool = False

    def read(self, times, window, random):
        codes = np.random.default_rng(times.start).integers(0, 256, (self.height // 8, self.width // 8, 3))
        codes = np.full_like(codes, 90) if self.flat else codes
        picture = torch.from_numpy(codes).permute(2, 0, 1)[None].float()
        large = torch.nn.functional.interpolate(picture, (self.height, self.width), mode="bilinear")
        return large.round().byte().permute(0, 2, 3, 1).numpy()[(slice(None), *window.area)]


def clip_of(still, seed=0, occluders=2, times=range(5, 14), side=32):
    window = Window((still.height - side) // 2, (still.width - side) // 3, side, side)
    return MovingStill.of(still, occluders).read(times, window, np.random.default_rng(seed))


def test_moving_still_is_a_function_of_its_generator():
    still = Photograph("a", 1, 120, 200)
    one, two = clip_of(still, seed=3), clip_of(still, seed=3)
    assert one.dtype == np.uint8
    assert one.shape == (9, 32, 32, 3)
    assert np.array_equal(one, two)
    assert not np.array_equal(one, clip_of(still, seed=4))
    # time counts from the clip's own beginning
    assert np.array_equal(one, clip_of(still, seed=3, times=range(8, 17)))


def test_moving_still_moves_smoothly_at_many_speeds():
    still = Photograph("a", 1, 120, 200)
    changes = []
    for seed in range(30):
        clip = clip_of(still, seed=seed).astype(float)
        steps = np.abs(np.diff(clip, axis=0)).mean(axis=(1, 2, 3))
        assert np.abs(np.diff(steps)).max() <= 0.6 * steps.max() + 1
        changes.append(steps.mean())
    assert min(changes) < 3 < 15 < max(changes)


def test_stride_takes_every_other_frame_of_the_same_motion():
    still = Photograph("a", 1, 120, 200)
    every, other = (clip_of(still, seed=8, times=times) for times in (range(9), range(0, 9, 2)))
    assert np.abs(other.astype(int) - every[::2]).max() <= 1


def test_picture_without_texture_stays_as_it_is():
    assert (clip_of(Photograph("a", 1, 120, 200, flat=True)) == 90).all()


def test_camera_path_alone_shifts_the_picture(monkeypatch):
    # straight on at 3 pixels a frame to the right, without swing, turn and zoom
    class Straight:
        def uniform(self, low, high, size=None):
            return {-3: np.zeros(2), 1: 1.0, 0: 0.0}.get(low, low) if size or low in (0, 1) else low

        def normal(self, mean, deviation):
            return 0.0

        def integers(self, high):
            return 0

    monkeypatch.setattr(still_motion, "SLOWEST", 3.0)
    still = Photograph("a", 1, 120, 200)
    clip = MovingStill.of(still).read(range(5), Window(40, 60, 32, 32), Straight())
    source = still.read(range(1), Window(0, 0, 120, 200), None)[0]
    for t in range(5):
        shift = 3 * (t - 2)
        assert np.abs(clip[t].astype(int) - source[40:72, 60 + shift : 92 + shift]).max() <= 1


def test_occluders_hide_and_uncover():
    still = Photograph("a", 1, 120, 200)
    differing = [np.abs(clip_of(still, s).astype(int) - clip_of(still, s, occluders=0)).mean() for s in range(12)]
    assert min(differing) == 0
    assert sum(d > 1 for d in differing) >= 5


@pytest.mark.parametrize("size", [(32, 32), (33, 500)])
def test_still_no_larger_than_the_window_is_mirrored_at_its_border(size):
    assert clip_of(Photograph("a", 1, *size)).shape == (9, 32, 32, 3)
