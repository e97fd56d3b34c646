import av
import numpy as np
import pytest
import torch
from PIL import Image

from lvc_zoo.color import (
    ColorSpec,
    downsample_chroma,
    planes_to_rgb,
    rgb_to_planes,
    rgb_to_yuv,
    upsample_chroma,
    yuv_to_rgb,
)

SPECS = [
    ColorSpec(matrix, full_range=full_range, bit_depth=bit_depth, chroma="444")
    for matrix in ("bt601", "bt709")
    for full_range in (False, True)
    for bit_depth in (8, 10)
]
RED, GREEN, BLUE, WHITE, BLACK = (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0, 0, 0)


def codes_of(rgb, spec):
    planes = rgb_to_planes(torch.tensor(rgb, dtype=torch.float32).view(3, 1, 1), spec)
    return [int(plane) for plane in planes]


@pytest.mark.parametrize(
    ("spec", "rgb", "expected"),
    [
        # the colour bars of the two standards, as tables of broadcast codes print them
        (ColorSpec("bt601", chroma="444"), RED, [81, 90, 240]),
        (ColorSpec("bt601", chroma="444"), GREEN, [145, 54, 34]),
        (ColorSpec("bt601", chroma="444"), BLUE, [41, 240, 110]),
        (ColorSpec("bt709", chroma="444"), RED, [63, 102, 240]),
        (ColorSpec("bt709", chroma="444"), GREEN, [173, 42, 26]),
        (ColorSpec("bt709", chroma="444"), BLUE, [32, 240, 118]),
        (ColorSpec("bt709", chroma="444"), BLACK, [16, 128, 128]),
        (ColorSpec("bt709", chroma="444", bit_depth=10), WHITE, [940, 512, 512]),
        (ColorSpec("bt709", chroma="444", bit_depth=10), BLUE, [127, 960, 471]),
        # JFIF
        (ColorSpec("bt601", chroma="444", full_range=True), RED, [76, 85, 255]),
        (ColorSpec("bt601", chroma="444", full_range=True), WHITE, [255, 128, 128]),
    ],
)
def test_codes_of_pure_colours_match_published_bars(spec, rgb, expected):
    assert codes_of(rgb, spec) == expected


@pytest.mark.parametrize("spec", SPECS)
def test_yuv_to_rgb_inverts_rgb_to_yuv(spec):
    rgb = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(yuv_to_rgb(rgb_to_yuv(rgb, spec), spec), rgb, atol=1e-6, rtol=0)


@pytest.mark.parametrize("spec", SPECS)
def test_444_planes_survive_rgb_exactly(spec):
    rgb = 0.1 + 0.8 * torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    planes = rgb_to_planes(rgb, spec)
    again = rgb_to_planes(planes_to_rgb(*planes, spec), spec)
    for plane, expected in zip(again, planes, strict=True):
        assert torch.equal(plane, expected)


@pytest.mark.parametrize("spec", SPECS)
def test_444_rgb_survives_planes_within_half_a_code(spec):
    """Half a code in each plane, through the rows of the inverse matrix (at most 1.86 for blue), is the bound."""
    rgb = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2))
    error = (planes_to_rgb(*rgb_to_planes(rgb, spec), spec) - rgb).abs().max()
    luma, chroma = (1, 1) if spec.full_range else (219 / 255, 224 / 255)
    assert error <= 0.5 * (1 / luma + 1.86 / chroma) / spec.max_code * 1.001


@pytest.mark.parametrize(("matrix", "tag"), [("bt601", "ITU601"), ("bt709", "ITU709")])
@pytest.mark.parametrize("full_range", [False, True])
def test_rgb_of_444_matches_swscale(matrix, tag, full_range):
    rng = np.random.default_rng(3)
    codes = rng.integers(60, 190, (3, 16, 32), dtype=np.uint8)
    # PyAV's own arguments for the range change their meaning with its version
    frame = av.VideoFrame.from_ndarray(codes, format="yuvj444p" if full_range else "yuv444p")
    expected = frame.reformat(format="rgb24", src_colorspace=tag, dst_colorspace=tag).to_ndarray()
    spec = ColorSpec(matrix, full_range=full_range, chroma="444")
    ours = planes_to_rgb(*torch.from_numpy(codes), spec).permute(1, 2, 0).numpy() * 255
    # swscale rounds to whole codes, through tables
    assert np.abs(ours - expected).max() < 2.5
    assert abs((ours - expected).mean()) < 0.7


def test_chroma_between_lines_matches_swscale():
    """Lines only: without a tag, which PyAV cannot set, swscale centres the columns too."""
    y, _ = np.mgrid[0:16, 0:32].astype(np.float64)
    u, v = (plane.round().astype(np.uint8) for plane in (100 + 60 * np.sin(y / 3), 140 - 50 * np.cos(y / 4)))
    codes = np.concatenate([np.full(2048, 128, np.uint8), u.ravel(), v.ravel()]).reshape(48, 64)
    frame = av.VideoFrame.from_ndarray(codes, format="yuv420p")
    frame = frame.reformat(format="yuv444p", src_color_range=1, dst_color_range=1, interpolation="BICUBIC")
    ours = upsample_chroma(torch.from_numpy(np.stack((u, v))).float(), ColorSpec("bt709"), (32, 64)).numpy()
    # its kernel is a little sharper, and it rounds
    assert np.abs(ours - frame.to_ndarray()[1:]).max() < 1.5


def test_upsampling_of_a_ramp_puts_samples_at_their_sites():
    """Columns 0, 2, 4, ... and lines 0.5, 2.5, ...: a ramp in either direction comes back exactly."""
    columns = torch.arange(0, 16, 2.0).expand(8, 8)
    lines = (torch.arange(0, 16, 2.0) + 0.5).view(8, 1).expand(8, 8)
    spec = ColorSpec("bt601")
    inside = slice(4, 12)
    across = upsample_chroma(columns, spec, (16, 16))[inside, inside]
    down = upsample_chroma(lines, spec, (16, 16))[inside, inside]
    torch.testing.assert_close(across, torch.arange(4.0, 12).expand(8, 8))
    torch.testing.assert_close(down, torch.arange(4.0, 12).view(8, 1).expand(8, 8))


def test_vertical_resampling_matches_pillow_bicubic():
    """Pillow's bicubic kernel is the same one, centred as chroma is between lines; its borders differ."""
    plane = torch.rand(16, 8, generator=torch.Generator().manual_seed(4))
    picture = Image.fromarray(plane.numpy())
    up = np.asarray(picture.resize((8, 32), Image.Resampling.BICUBIC))
    down = np.asarray(picture.resize((8, 8), Image.Resampling.BICUBIC))
    # every other column holds the samples themselves
    ours_up = upsample_chroma(plane, ColorSpec("bt601"), (32, 16))[:, ::2]
    flat = plane.mean(dim=1, keepdim=True)
    ours_down = downsample_chroma(flat.expand(16, 8), ColorSpec("bt601"))[:, 0]
    np.testing.assert_allclose(ours_up[4:-4], up[4:-4], atol=1e-5)
    np.testing.assert_allclose(ours_down[2:-2], down.mean(axis=1)[2:-2], atol=1e-5)


@pytest.mark.parametrize("chroma", ["420", "422", "444"])
@pytest.mark.parametrize("size", [(1, 1), (1, 8), (17, 33), (16, 18), (3, 2)])
def test_any_size_keeps_a_flat_colour(chroma, size):
    spec = ColorSpec("bt709", chroma=chroma)
    rgb = torch.tensor([0.2, 0.5, 0.7]).view(3, 1, 1).expand(3, *size)
    y, u, v = rgb_to_planes(rgb, spec)
    assert y.shape == size
    assert u.shape == v.shape == spec.chroma_size(*size)
    torch.testing.assert_close(planes_to_rgb(y, u, v, spec), rgb.contiguous(), atol=0.01, rtol=0)


def test_422_planes_have_half_the_columns():
    assert ColorSpec("bt709", chroma="422").chroma_size(5, 7) == (5, 4)


def test_10_bit_planes_are_int16():
    planes = rgb_to_planes(torch.ones(3, 4, 4), ColorSpec("bt601", bit_depth=10))
    assert {plane.dtype for plane in planes} == {torch.int16}


def test_codes_outside_the_rgb_cube_are_clamped():
    codes = torch.tensor([[[0, 255]], [[255, 0]], [[255, 0]]], dtype=torch.uint8)
    rgb = planes_to_rgb(*codes, ColorSpec("bt601", chroma="444"))
    assert (rgb.min(), rgb.max()) == (0, 1)


def test_conversion_is_differentiable():
    rgb = torch.rand(3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()
    spec = ColorSpec("bt709")
    assert torch.autograd.gradcheck(lambda x: downsample_chroma(rgb_to_yuv(x, spec), spec), rgb)


def test_guess_for_untagged_is_marked():
    assert ColorSpec.for_height(719) == ColorSpec("bt601", assumed=True)
    assert ColorSpec.for_height(720) == ColorSpec("bt709", assumed=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"matrix": "bt602"}, "matrix 'bt602' is unknown; the nearest .* 'bt601'"),
        ({"matrix": "bt601", "chroma": "4:2:0"}, "chroma '4:2:0' is unknown"),
        ({"matrix": "bt601", "bit_depth": 12}, "bit depth is 12, expected 8 or 10"),
    ],
)
def test_spec_with_unknown_value_raises(settings, message):
    with pytest.raises(ValueError, match=message):
        ColorSpec(**settings)


def test_chroma_of_wrong_size_raises():
    with pytest.raises(ValueError, match=r"\(8, 8\), expected \(9, 17\)"):
        upsample_chroma(torch.zeros(8, 8), ColorSpec("bt601"), (17, 33))
