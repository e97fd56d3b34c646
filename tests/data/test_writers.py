from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from lvc_zoo.color import ColorSpec, rgb_to_planes
from lvc_zoo.data import open_video, open_writer

SPEC = ColorSpec("bt709")


def random_frames(num_frames=3, height=16, width=24, seed=0):
    return torch.rand(num_frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


def smooth_frames(num_frames=5, height=48, width=64):
    """A drifting colour wave, easy to code."""
    y, x, t = torch.meshgrid(torch.arange(height), torch.arange(width), torch.arange(num_frames), indexing="ij")
    waves = [torch.sin((x + 2 * t) / 11 + phase) * torch.cos(y / 9 + phase) for phase in (0, 1, 2)]
    return (torch.stack(waves) * 0.4 + 0.5).permute(3, 0, 1, 2)


def write(path, frames, color=SPEC, frame_rate=25):
    with open_writer(path, width=frames.shape[3], height=frames.shape[2], frame_rate=frame_rate, color=color) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def decoded(path):
    with av.open(str(path)) as container:
        yield from container.decode(video=0)


def plane(of, bit_depth):
    """A plane of PyAV's frame as an array, the padding of its lines cut."""
    rows = np.frombuffer(of, dtype=np.uint8 if bit_depth == 8 else np.uint16).reshape(of.height, -1)
    return rows[:, : of.width]


@pytest.mark.parametrize("bit_depth", [8, 10])
@pytest.mark.parametrize("chroma", ["420", "422", "444"])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("size", [(16, 24), (17, 33)])
def test_y4m_read_by_ffmpeg_holds_the_planes(tmp_path, bit_depth, chroma, full_range, size):
    spec = ColorSpec("bt709", full_range=full_range, bit_depth=bit_depth, chroma=chroma)
    frames = random_frames(3, *size)
    pictures = list(decoded(write(tmp_path / "a.y4m", frames, spec, Fraction(30000, 1001))))
    assert len(pictures) == 3
    for picture, frame in zip(pictures, frames, strict=True):
        assert picture.format.name == f"yuv{chroma}p{'10le' if bit_depth == 10 else ''}"
        assert int(picture.color_range) == (2 if full_range else 1)
        assert (picture.width, picture.height) == (size[1], size[0])
        for stored, expected in zip(picture.planes, rgb_to_planes(frame, spec), strict=True):
            assert np.array_equal(plane(stored, bit_depth), expected.numpy())


def test_y4m_keeps_the_frame_rate(tmp_path):
    path = write(tmp_path / "a.y4m", random_frames(), frame_rate=Fraction(30000, 1001))
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_444_y4m_returns_within_a_code(tmp_path, bit_depth):
    spec = ColorSpec("bt709", bit_depth=bit_depth, chroma="444")
    frames = random_frames()
    again = torch.stack(list(open_video(write(tmp_path / "a.y4m", frames, spec), color=spec)))
    assert (again - frames).abs().max() < 1.8 / spec.max_code


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_raw_file_is_y4m_without_its_headers(tmp_path, bit_depth):
    spec = ColorSpec("bt601", bit_depth=bit_depth)
    frames = random_frames(2, 17, 33)
    y4m = write(tmp_path / "a.y4m", frames, spec).read_bytes()
    raw = write(tmp_path / "a.yuv", frames, spec).read_bytes()
    _, *stored = y4m.split(b"FRAME\n")
    assert raw == b"".join(stored)
    assert len(raw) == 2 * (17 * 33 + 2 * 9 * 17) * (bit_depth > 8 or 0) + 2 * (17 * 33 + 2 * 9 * 17)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("matrix", "tag"), [("bt601", 6), ("bt709", 1)])
@pytest.mark.parametrize("full_range", [False, True])
def test_playable_file_is_tagged_h264_of_high_quality(tmp_path, suffix, matrix, tag, full_range):
    frames = smooth_frames()
    spec = ColorSpec(matrix, full_range=full_range, bit_depth=10, chroma="444")
    path = write(tmp_path / f"a{suffix}", frames, spec, frame_rate=Fraction(30000, 1001))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert float(stream.average_rate) == pytest.approx(30000 / 1001, rel=1e-4)
        assert "mp4" in container.format.name or "matroska" in container.format.name
        pictures = list(container.decode(stream))
    assert {picture.format.name for picture in pictures} <= {"yuv420p", "yuvj420p"}
    assert {(int(p.colorspace), int(p.color_range)) for p in pictures} == {(tag, 2 if full_range else 1)}
    again = torch.stack(list(open_video(path)))
    assert again.shape == frames.shape
    assert -10 * torch.log10((again - frames).square().mean()) > 40


def test_playable_file_of_odd_size_keeps_it(tmp_path):
    frames = smooth_frames(3, 17, 33)
    reader = open_video(write(tmp_path / "a.mp4", frames))
    assert (reader.width, reader.height, reader.color.chroma) == (33, 17, "444")
    assert len(list(reader)) == 3


@pytest.mark.parametrize("name", ["pictures", "pictures.v2/"])
def test_folder_holds_the_frames_as_8_bit_png(tmp_path, name):
    frames = random_frames(12)
    write(f"{tmp_path}/{name}", frames)
    pictures = sorted((tmp_path / name).iterdir())
    assert [picture.name for picture in pictures] == [f"frame_{i:05d}.png" for i in range(12)]
    for picture, frame in zip(pictures, frames, strict=True):
        pixels = np.asarray(Image.open(picture))
        assert np.array_equal(pixels, np.rint(frame.permute(1, 2, 0).numpy() * 255).astype(np.uint8))


def test_values_outside_the_range_are_clamped(tmp_path):
    frames = torch.stack((torch.full((3, 4, 4), -0.5), torch.full((3, 4, 4), 1.5)))
    write(tmp_path / "pictures", frames)
    assert [float(frame.mean()) for frame in open_video(tmp_path / "pictures")] == [0, 1]


NAMES = ["a.y4m", "a.yuv", "a.mp4", "a.mkv", "pictures"]


@pytest.mark.parametrize("name", NAMES)
def test_exception_leaves_nothing(tmp_path, name):
    def fail():
        with open_writer(tmp_path / name, width=24, height=16, frame_rate=25, color=SPEC) as writer:
            writer.write(random_frames()[0])
            assert not (tmp_path / name).exists()
            raise RuntimeError("the decoder failed")

    with pytest.raises(RuntimeError, match="the decoder failed"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_no_frame_raises_and_leaves_nothing(tmp_path, name):
    with pytest.raises(ValueError, match="no frame was written"):
        write(tmp_path / name, torch.empty(0, 3, 16, 24))
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_the_former_file(tmp_path):
    path = write(tmp_path / "a.y4m", random_frames(1))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="no frame"):
        write(path, torch.empty(0, 3, 16, 24))
    assert path.read_bytes() == before


def test_success_replaces_the_former_file(tmp_path):
    path = write(tmp_path / "a.y4m", random_frames(1))
    assert len(list(decoded(write(path, random_frames(2))))) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_empty_folder_is_filled_and_full_one_refused(tmp_path):
    target = tmp_path / "pictures"
    target.mkdir()
    write(target, random_frames(1))
    assert len(list(target.iterdir())) == 1
    with pytest.raises(ValueError, match="is not an empty folder; remove it or choose another name"):
        write(target, random_frames(1))


def test_remains_of_another_run_raise(tmp_path):
    (tmp_path / "pictures.part").mkdir()
    with pytest.raises(ValueError, match=r"pictures.part is in the way"):
        write(tmp_path / "pictures", random_frames(1))
    assert (tmp_path / "pictures.part").exists()


def test_unknown_suffix_lists_the_known():
    with pytest.raises(ValueError, match=r"suffix '.avi' of out.avi is unknown; .*'.mp4'"):
        open_writer("out.avi", width=4, height=4, frame_rate=25, color=SPEC)


def test_missing_parent_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; create it first"):
        open_writer(tmp_path / "nowhere" / "a.y4m", width=4, height=4, frame_rate=25, color=SPEC)


@pytest.mark.parametrize(
    "frame", [torch.zeros(3, 4, 5), torch.zeros(1, 3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)]
)
def test_frame_of_wrong_kind_raises(tmp_path, frame):
    with (
        pytest.raises(ValueError, match=r"frame 0 is .*, expected floating point \(3, 4, 4\)"),
        open_writer(tmp_path / "a.y4m", width=4, height=4, frame_rate=25, color=SPEC) as writer,
    ):
        writer.write(frame)
