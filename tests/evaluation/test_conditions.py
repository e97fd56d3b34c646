"""Test conditions and the clips that they name."""

import hashlib
import json
import subprocess
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from lvc_zoo.color import ColorSpec
from lvc_zoo.config import strict_from_dict
from lvc_zoo.data import open_writer
from lvc_zoo.evaluation.conditions import RECORDED, TestCondition, check_same_condition
from lvc_zoo.evaluation.sources import PlanarReader, find_clips
from lvc_zoo.gop import LowDelay, RandomAccess
from tests.miniature import moving_clip

SPEC = ColorSpec("bt601")


def write_clip(path, num_frames=3, height=48, width=64, seed=0):
    with open_writer(path, width=width, height=height, frame_rate=Fraction(25), color=SPEC) as writer:
        for frame in moving_clip(num_frames, height, width, seed):
            writer.write(frame)


@pytest.fixture
def folder(tmp_path):
    write_clip(tmp_path / "b.y4m")
    write_clip(tmp_path / "a.y4m", num_frames=4, seed=1)
    (tmp_path / "notes.txt").write_text("not a clip")
    return tmp_path


def condition_of(folder, **changes):
    clips = find_clips([folder], num_frames=3, color=SPEC)
    return replace(TestCondition(sequences=tuple(clip.source for clip in clips), num_frames=3), **changes)


def luma(path, height=48, width=64):
    """Luma of the frames of a 4:2:0 Y4M file, read by hand."""
    header, _, body = path.read_bytes().partition(b"\n")
    assert b"C420" in header
    frames = np.frombuffer(body, np.uint8).reshape(-1, 6 + height * width * 3 // 2)[:, 6:]
    return frames[:, : height * width].reshape(-1, height, width)


def test_clips_are_found_in_order_with_their_digests(folder):
    clips = find_clips([folder], num_frames=3, color=SPEC)
    assert [clip.source.name for clip in clips] == ["a", "b"]
    for clip in clips:
        assert clip.source.sha256 == hashlib.sha256(clip.path.read_bytes()).hexdigest()
        assert (clip.source.width, clip.source.height, clip.source.stored_as) == (64, 48, "yuv")
        assert len(list(clip.open())) == 3


def test_manifest_is_that_of_sha256sum(folder):
    """The digest of what the program prints, names less their suffixes."""
    printed = subprocess.run(["sha256sum", "a.y4m", "b.y4m"], cwd=folder, capture_output=True, check=True).stdout
    expected = hashlib.sha256(printed.replace(b".y4m", b"")).hexdigest()
    assert condition_of(folder).manifest_sha256 == expected


def test_pictures_folder_has_the_digest_of_sha256sum(tmp_path):
    pictures = tmp_path / "clips" / "p"
    pictures.mkdir(parents=True)
    for name in ("0.png", "1.png"):
        Image.new("RGB", (32, 16), (int(name[0]) * 40, 90, 120)).save(pictures / name)
    printed = subprocess.run(["sha256sum", "0.png", "1.png"], cwd=pictures, capture_output=True, check=True).stdout
    (clip,) = find_clips([tmp_path / "clips"], num_frames=2)
    assert clip.source.sha256 == hashlib.sha256(printed).hexdigest()
    assert (clip.source.name, clip.source.stored_as) == ("p", "rgb")
    assert not isinstance(clip.open(), PlanarReader)


def test_still_pictures_are_clips_of_one_frame(tmp_path):
    codes = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    Image.fromarray(codes).save(tmp_path / "a.png")
    (clip,) = find_clips([tmp_path], num_frames=1)
    (frame,) = clip.open()
    assert np.array_equal((frame.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8), codes)


def test_raw_videos_are_clips_by_their_names(tmp_path):
    planes = [torch.randint(0, 255, size, dtype=torch.uint8) for size in ((3, 48, 64), (3, 24, 32), (3, 24, 32))]
    frames = [plane[t].numpy().tobytes() for t in range(3) for plane in planes]
    (tmp_path / "raw_64x48_50.yuv").write_bytes(b"".join(frames))
    (clip,) = find_clips([tmp_path], num_frames=3, color=SPEC)
    assert (clip.source.stored_as, clip.source.chroma, clip.source.frame_rate) == ("yuv", "420", "50")
    (smaller,) = find_clips([tmp_path], num_frames=3, max_size=(32, 32), color=SPEC)
    y, u, _ = next(iter(smaller.open().planes()))
    assert torch.equal(y, planes[0][0, 8:40, 16:48])
    assert torch.equal(u, planes[1][0, 4:20, 8:24])


def test_pictures_of_16_bits_are_refused(tmp_path):
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="more than 8 bits a sample"):
        find_clips([tmp_path], num_frames=1)


def test_large_clips_are_cropped_about_their_centre(folder):
    """Planes are the source's own, from even places on; sides are multiples of 16."""
    clip = find_clips([folder / "a.y4m"], num_frames=3, max_size=(40, 47), color=SPEC)[0]
    assert (clip.source.width, clip.source.height) == (32, 32)
    planes = list(clip.open().planes())
    expected = luma(folder / "a.y4m")[:3, 8:40, 16:48]
    assert np.array_equal(np.stack([y.numpy() for y, _, _ in planes]), expected)
    assert {tuple(u.shape) for _, u, _ in planes} == {(16, 16)}
    # away from the borders, where chroma is interpolated from fewer neighbours, RGB is the source's too
    cropped = torch.stack(list(clip.open()))[:, :, 4:-4, 4:-4]
    whole = torch.stack(list(find_clips([folder / "a.y4m"], num_frames=3, color=SPEC)[0].open()))
    assert torch.equal(cropped, whole[:, :, 12:36, 20:44])


def test_odd_sides_lose_their_last_line(tmp_path):
    Image.new("RGB", (33, 17)).save(tmp_path / "a.png")
    (clip,) = find_clips([tmp_path], num_frames=1)
    assert (clip.source.width, clip.source.height) == (32, 16)
    assert next(iter(clip.open())).shape == (3, 16, 32)


def test_condition_survives_json(folder):
    condition = condition_of(folder, max_size=(64, 48), q=(0, 63))
    data = json.loads(json.dumps(condition.to_json()))
    data.pop("manifest_sha256")
    assert strict_from_dict(TestCondition, data) == condition


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_frames", 2),
        ("structure", "low_delay"),
        ("intra_period", 16),
        ("max_size", (32, 32)),
        ("metric", "psnr-y"),
        ("color", "BT.709 for all"),
        ("rate", "payload bytes"),
    ],
)
def test_other_condition_is_refused_by_field(folder, field, value):
    condition = condition_of(folder)
    with pytest.raises(ValueError, match=f"different test conditions: {field} differs"):
        check_same_condition(condition, replace(condition, **{field: value}))


@pytest.mark.parametrize("field", RECORDED)
def test_what_is_only_recorded_does_not_matter(folder, field):
    condition = condition_of(folder)
    other = {"name": "x", "q": (1,), "crf": (9.0,), "jpeg_quality": (50,), "ms_ssim": True}[field]
    check_same_condition(condition, replace(condition, **{field: other}))


def test_other_clip_is_refused_by_name(folder):
    condition = condition_of(folder)
    data = bytearray((folder / "b.y4m").read_bytes())
    data[-1] ^= 1
    (folder / "b.y4m").write_bytes(data)
    with pytest.raises(ValueError, match="sequences differs, sha256 of 'b' is "):
        check_same_condition(condition, condition_of(folder))
    (folder / "b.y4m").unlink()
    with pytest.raises(ValueError, match="sequences differs, 'b' is in only one of them"):
        check_same_condition(condition, condition_of(folder))


def test_condition_of_a_clip_ignores_other_clips(folder):
    before = condition_of(folder).of_clip("a")
    write_clip(folder / "c.y4m")
    assert condition_of(folder, name="later", q=(5,)).of_clip("a") == before
    assert condition_of(folder, max_size=(64, 48)).of_clip("a") != before


def test_structure_is_built_from_the_condition(folder):
    condition = condition_of(folder)
    assert condition.gop_structure == RandomAccess(32)
    assert replace(condition, structure="low_delay", intra_period=None).gop_structure == LowDelay(None)
    assert replace(condition, intra_period=1).gop_structure == LowDelay(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequences": ()}, "expected at least one"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"structure": "random"}, "structure is 'random'"),
        ({"intra_period": 12}, "12 is not a power of two"),
        ({"intra_period": None}, "random access needs an intra period"),
        ({"q": ()}, "at least one rate point"),
        ({"q": (0, 64)}, r"q is \[0, 64\], expected at least one rate point of 0 to 63"),
        ({"crf": (-1.0, 30.0)}, "crf is"),
        ({"crf": (30.0, 30.0)}, "none twice"),
        ({"jpeg_quality": (96,)}, "of 1 to 95"),
    ],
)
def test_condition_refuses_what_cannot_be(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        condition_of(folder, **changes)


def test_two_clips_of_one_name_raise(folder):
    clips = find_clips([folder / "a.y4m", folder / "a.y4m"], num_frames=3, color=SPEC)
    with pytest.raises(ValueError, match="no name twice"):
        TestCondition(sequences=tuple(clip.source for clip in clips))


def test_missing_and_unfit_clips_raise(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        find_clips([folder / "nowhere"])
    with pytest.raises(ValueError, match=r"b.y4m has 3 frames, expected at least 9"):
        find_clips([folder / "b.y4m"], num_frames=9, color=SPEC)
    with pytest.raises(ValueError, match="leaves nothing in multiples of 16"):
        find_clips([folder / "b.y4m"], num_frames=3, max_size=(15, 48), color=SPEC)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no clip"):
        find_clips([tmp_path / "empty"])
