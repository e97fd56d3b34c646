import pytest
import torch

from lvc_zoo.blocks.padding import crop_to_size, pad_to_multiple


@pytest.mark.parametrize(("size", "padded"), [((1, 1), (16, 16)), ((17, 33), (32, 48)), ((16, 20), (16, 32))])
def test_pad_to_multiple_repeats_last_row_and_column(size, padded):
    x = torch.rand(2, 3, *size)
    out = pad_to_multiple(x, 16)
    assert out.shape == (2, 3, *padded)
    for row in range(padded[0]):
        for column in range(padded[1]):
            expected = x[..., min(row, size[0] - 1), min(column, size[1] - 1)]
            assert torch.equal(out[..., row, column], expected)


def test_pad_to_multiple_with_zeros_keeps_the_picture():
    x = torch.rand(1, 3, 5, 7)
    out = pad_to_multiple(x, 8, "zeros")
    assert torch.equal(out[..., :5, :7], x)
    assert out.shape == (1, 3, 8, 8)
    assert float(out.sum()) == pytest.approx(float(x.sum()))


def test_pad_to_multiple_of_fitting_size_returns_input():
    x = torch.rand(1, 3, 32, 16)
    assert pad_to_multiple(x, 16) is x


def test_crop_after_pad_gives_input_back():
    x = torch.rand(1, 3, 5, 7)
    assert torch.equal(crop_to_size(pad_to_multiple(x, 8), (5, 7)), x)


def test_crop_to_larger_size_raises():
    with pytest.raises(ValueError, match=r"cannot crop \(4, 4\) to \(4, 5\)"):
        crop_to_size(torch.zeros(1, 1, 4, 4), (4, 5))


@pytest.mark.parametrize("multiple", [0, -16])
def test_pad_to_multiple_below_one_raises(multiple):
    with pytest.raises(ValueError, match=f"padding multiple is {multiple}, expected a positive integer"):
        pad_to_multiple(torch.zeros(1, 1, 4, 4), multiple)
