import os
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lvc_zoo.color import ColorSpec
from lvc_zoo.data import cache, open_video, open_writer
from lvc_zoo.data.cache import decode_sources, list_sources, raw_format, write_array
from lvc_zoo.data.folders import footage_of
from lvc_zoo.data.footage import Window
from tests.miniature import moving_clip


def write_video(path, frames):
    spec = ColorSpec(matrix="bt601", full_range=False, bit_depth=8, chroma="444")
    height, width = frames.shape[-2:]
    with open_writer(path, width=width, height=height, frame_rate=Fraction(25), color=spec) as writer:
        for frame in frames:
            writer.write(frame)


def write_y4m(path, num_frames=2):
    """Without a colour tag."""
    frame = b"FRAME\n" + bytes(range(64)) * 6
    path.write_bytes(b"YUV4MPEG2 W16 H16 F25:1 Ip A1:1 C420jpeg\n" + frame * num_frames)


def write_picture(path, seed=0, size=(20, 17)):
    codes = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(codes).save(path)
    return codes


def whole(footage):
    window = Window(0, 0, footage.height, footage.width)
    return footage.read(range(footage.num_frames), window, np.random.default_rng(0))


def test_decoded_video_holds_the_reader_s_frames(tmp_path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "odd.mkv", moving_clip(5, 31, 45))
    (footage,) = footage_of(tmp_path / "in", tmp_path / "cache")
    frames = torch.stack(list(open_video(tmp_path / "in" / "odd.mkv"))).permute(0, 2, 3, 1)
    assert (footage.num_frames, footage.height, footage.width, footage.cuts) == (5, 31, 45, ())
    assert np.array_equal(whole(footage), (frames * 255).round().byte().numpy())
    part = footage.read(range(0, 5, 2), Window(3, 7, 8, 16), np.random.default_rng(0))
    assert np.array_equal(part, whole(footage)[::2, 3:11, 7:23])


def test_cut_is_stored_beside_the_frames(tmp_path):
    frames = torch.cat([moving_clip(4, 32, 48, seed=1), 0.3 * moving_clip(5, 32, 48, seed=2)])
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "two_shots.mkv", frames)
    for _ in range(2):
        (footage,) = footage_of(tmp_path / "in", tmp_path / "cache")
        assert footage.cuts == (4,)


def test_raw_video_of_10_bits_takes_its_format_from_the_name(tmp_path):
    codes = np.full(16 * 8 * 3 // 2 * 2, 512, dtype="<u2")
    codes[:128] = 940
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "Park_16x8_25fps_10bit_420.yuv").write_bytes(codes.tobytes())
    with pytest.warns(UserWarning, match="1 videos of .* do not say which matrix"):
        (footage,) = footage_of(tmp_path / "in", tmp_path / "cache")
    assert whole(footage).shape == (2, 8, 16, 3)
    assert (whole(footage)[0] == 255).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a_1920x1080.yuv", "yuv420p"),
        ("a_1920x1080_120fps_422_10bit.yuv", "yuv422p10le"),
        ("a_1920x1080_8bit_444.yuv", "yuv444p"),
        ("a_1920x1080_yuv420p10le.yuv", "yuv420p10le"),
    ],
)
def test_raw_format_of_usual_names(name, expected):
    assert raw_format(Path(name))[:2] == ((1920, 1080), expected)


def test_raw_video_of_a_depth_that_is_not_read_is_refused_not_read_as_8_bits(tmp_path):
    path = tmp_path / "Park_16x8_25fps_12bit_420.yuv"
    path.write_bytes(bytes(16 * 8 * 3 // 2 * 2))
    with pytest.raises(ValueError, match=r"yuv420p12le.* is unknown"):
        footage_of(tmp_path, tmp_path / "cache")


def test_files_alike_in_all_but_their_folder_are_two_sources(tmp_path):
    for value, folder in enumerate(("a", "b")):
        path = tmp_path / folder / "0001" / "im1.bmp"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), (value, 0, 0)).save(path)
        os.utime(path, (0, 0))
    sources = [tmp_path / folder / "0001" for folder in ("a", "b")]
    read = [whole(footage)[0, 0, 0, 0] for footage in decode_sources(sources, tmp_path / "cache", "both")]
    assert read == [0, 1]


def test_raw_video_without_size_in_its_name_raises():
    with pytest.raises(ValueError, match="no WIDTHxHEIGHT in its name; rename it"):
        raw_format(Path("park.yuv"))


def test_folders_of_numbered_frames_are_clips_in_the_order_of_numbers(tmp_path):
    for clip in "ab":
        (tmp_path / "in" / clip).mkdir(parents=True)
    pictures = [write_picture(tmp_path / "in" / "a" / f"f{i}.png", seed=i) for i in range(11)]
    write_picture(tmp_path / "in" / "b" / "0.png", size=(9, 8))
    one, two = footage_of(tmp_path / "in", tmp_path / "cache")
    assert np.array_equal(whole(one), np.stack(pictures))
    assert whole(two).shape == (1, 8, 9, 3)


def test_folder_of_stills_leaves_its_folders_alone(tmp_path):
    (tmp_path / "held_out").mkdir()
    write_picture(tmp_path / "held_out" / "0.png")
    write_picture(tmp_path / "b.png")
    write_picture(tmp_path / "a.png")
    assert [path.name for path in list_sources(tmp_path)] == ["a.png", "b.png"]


def test_frames_of_two_sizes_raises(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    write_picture(tmp_path / "in" / "a" / "0.png")
    write_picture(tmp_path / "in" / "a" / "1.png", size=(20, 18))
    with pytest.raises(ValueError, match=r"1\.png is 20x18, expected 20x17 as the frames before it"):
        footage_of(tmp_path / "in", tmp_path / "cache")


def test_damaged_picture_raises(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as a picture"):
        footage_of(tmp_path, tmp_path / "cache")


def test_changed_source_is_decoded_anew_and_an_unchanged_one_is_not(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    write_picture(tmp_path / "in" / "a.png", seed=0)
    write_picture(tmp_path / "in" / "b.png", seed=1)
    footage_of(tmp_path / "in", tmp_path / "cache")
    fresh = write_picture(tmp_path / "in" / "a.png", seed=2)
    os.utime(tmp_path / "in" / "a.png", ns=(1, 1))
    read, taken = cache.read_frames, []
    monkeypatch.setattr(cache, "read_frames", lambda source: taken.append(source.name) or read(source))
    one, _ = footage_of(tmp_path / "in", tmp_path / "cache")
    assert taken == ["a.png"]
    assert np.array_equal(whole(one)[0], fresh)


def test_interrupted_decoding_goes_on_where_it_stopped(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in "abc":
        write_picture(tmp_path / "in" / f"{name}.png", seed=ord(name))
    read, taken = cache.read_frames, []

    def interrupted(source):
        taken.append(source.name)
        yield from read(source)
        if source.name == "b.png" and taken.count("b.png") == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(cache, "read_frames", interrupted)
    with pytest.raises(KeyboardInterrupt):
        footage_of(tmp_path / "in", tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert len(footage_of(tmp_path / "in", tmp_path / "cache")) == 3
    assert taken == ["a.png", "b.png", "b.png", "c.png"]


def test_untagged_videos_are_told_of_once_and_not_again(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "abc":
        write_y4m(tmp_path / "in" / f"{name}.y4m")
    with pytest.warns(UserWarning, match="videos of") as seen:
        footage_of(tmp_path / "in", tmp_path / "cache")
    assert [str(warning.message)[:9] for warning in seen] == ["3 videos "]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        footage_of(tmp_path / "in", tmp_path / "cache")


def test_missing_folder_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="none is not a folder; give one that holds videos"):
        list_sources(tmp_path / "none")


def test_folder_without_footage_raises(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds no video or picture.*directly above them"):
        list_sources(tmp_path)


def test_written_array_of_unknown_length_loads_as_numpy_s_own(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (1234, 2, 3, 3), dtype=np.uint8)
    assert write_array(tmp_path / "a", iter(frames)) == frames.shape
    assert np.array_equal(np.load(tmp_path / "a"), frames)
