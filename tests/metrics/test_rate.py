import pytest
import torch

from lvc_zoo.metrics import BitsPerPixel


def test_bits_per_pixel_over_clip_weighs_frames_by_pixels():
    metric = BitsPerPixel()
    metric.update({"frame": 100.0, "hyper": torch.tensor([20.0, 30.0])}, num_pixels=100)
    metric.update({"motion": torch.tensor(60.0), "frame": torch.tensor([[90.0]])}, num_pixels=torch.tensor([150, 50]))
    bpp = {name: value.item() for name, value in metric.compute().items()}
    assert bpp == pytest.approx({"motion": 0.2, "frame": 190 / 300, "hyper": 50 / 300, "total": 1.0})


def test_bits_per_pixel_counts_single_bits_of_long_clip():
    metric = BitsPerPixel(parts=("file",))
    metric.update({"file": 2.0**30}, num_pixels=1)
    metric.update({"file": 1.0}, num_pixels=1)
    assert metric.compute()["total"].item() * 2 == 2**30 + 1


def test_bits_per_pixel_holds_no_graph():
    metric = BitsPerPixel()
    metric.update({"frame": torch.tensor([8.0], requires_grad=True)}, num_pixels=16)
    assert metric.compute()["total"].requires_grad is False


def test_bits_per_pixel_of_unknown_part_names_nearest():
    with pytest.raises(ValueError, match="part 'motions' of the bits is unknown; the nearest is 'motion'"):
        BitsPerPixel().update({"motions": 1.0}, num_pixels=1)


def test_bits_per_pixel_without_pixels_raises():
    with pytest.raises(ValueError, match="num_pixels is 0"):
        BitsPerPixel().update({"frame": 1.0}, num_pixels=0)


@pytest.mark.parametrize("parts", [("frame", "total"), ("frame", "frame")])
def test_bits_per_pixel_with_ambiguous_parts_raises(parts):
    with pytest.raises(ValueError, match="distinct names other than 'total'"):
        BitsPerPixel(parts=parts)
