import re
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from lvc_zoo.codec.reader import TensorReader
from lvc_zoo.color import ColorSpec
from lvc_zoo.data import demo_clip, open_video
from lvc_zoo.evaluation.external import ExternalCodec, crf_of
from lvc_zoo.gop import LowDelay, RandomAccess

SPEC = ColorSpec("bt709")
CODECS = [ExternalCodec("x264", preset="veryfast"), ExternalCodec("x265", preset="veryfast")]
each_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


def drifting(num_frames=9, height=64, width=96):
    """A pattern that moves two pixels a frame."""
    y, x, t = torch.meshgrid(torch.arange(height), torch.arange(width), torch.arange(num_frames), indexing="ij")
    waves = [torch.sin((x + 2 * t) / 7 + phase) * torch.cos(y / 5 + phase) for phase in (0, 0.4, 0.8)]
    return (torch.stack(waves) * 0.4 + 0.5).permute(3, 0, 1, 2)


def reader(frames=None, frame_rate=25):
    return TensorReader(drifting() if frames is None else frames, frame_rate, SPEC)


def psnr_db(a, b):
    return float(10 * np.log10(1 / np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)))


def types(encoded):
    return "".join(record.frame_type for record in sorted(encoded.frames, key=lambda record: record.poc))


@each_codec
def test_decoded_frames_are_the_source_in_display_order(codec, tmp_path):
    frames = drifting()
    codec.encode(reader(frames), tmp_path / "a.bin", q=63)
    decoded = torch.stack(list(codec.decode(tmp_path / "a.bin")))
    assert decoded.shape == frames.shape
    assert psnr_db(decoded, frames) > 35
    # a neighbour is far less like it
    assert psnr_db(decoded[1:], frames[:-1]) < 30


@each_codec
def test_size_is_the_whole_file_by_frames(codec, tmp_path):
    encoded = codec.encode(reader(), tmp_path / "a.bin", q=32)
    size = (tmp_path / "a.bin").stat().st_size
    assert encoded.size_bytes == size == sum(record.payload_bytes for record in encoded.frames)
    assert sorted(record.poc for record in encoded.frames) == list(range(9))
    assert encoded.bpp == pytest.approx(8 * size / (9 * 64 * 96))
    assert list(tmp_path.iterdir()) == [tmp_path / "a.bin"]


@each_codec
def test_higher_q_is_larger_and_better(codec, tmp_path):
    sizes, quality = [], []
    for q in (0, 21, 42, 63):
        sizes.append(codec.encode(reader(), tmp_path / "a.bin", q=q).size_bytes)
        quality.append(psnr_db(torch.stack(list(codec.decode(tmp_path / "a.bin"))), drifting()))
    assert sizes == sorted(sizes)
    assert quality == sorted(quality)
    assert quality[3] > quality[0] + 6


@each_codec
def test_same_input_gives_the_same_bytes(codec, tmp_path):
    codec.encode(reader(), tmp_path / "a.bin", q=32)
    codec.encode(reader(), tmp_path / "b.bin", q=32)
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


@each_codec
def test_given_crf_replaces_q(codec, tmp_path):
    by_q = codec.encode(reader(), tmp_path / "a.bin", q=63).size_bytes
    by_crf = codec.encode(reader(), tmp_path / "b.bin", q=0, crf=crf_of(63)).size_bytes
    assert by_q == by_crf


def test_q_maps_linearly_to_crf():
    assert [crf_of(q) for q in (0, 31.5, 63)] == [45, 31, 17]


@each_codec
@pytest.mark.parametrize(
    ("structure", "num_frames", "key_frames"),
    [(RandomAccess(8), 20, [0, 8, 16]), (LowDelay(5), 12, [0, 5, 10]), (LowDelay(None), 40, [0]), (None, 40, [0, 32])],
)
def test_intra_period_sets_the_key_frames(codec, tmp_path, structure, num_frames, key_frames):
    frames = drifting(num_frames, 64, 64)
    found = types(codec.encode(reader(frames), tmp_path / "a.bin", 20, structure))
    assert [poc for poc, letter in enumerate(found) if letter == "I"] == key_frames


@each_codec
def test_b_frames_only_where_the_structure_reorders(codec, tmp_path):
    assert "B" in types(codec.encode(reader(), tmp_path / "a.bin", 20, RandomAccess(8)))
    assert "B" not in types(codec.encode(reader(), tmp_path / "a.bin", 20, LowDelay(8)))


@each_codec
def test_all_intra_structure_gives_i_frames_only(codec, tmp_path):
    assert types(codec.encode(reader(), tmp_path / "a.bin", 20, LowDelay(1))) == "I" * 9


@pytest.mark.parametrize(("name", "stream"), [("x264", "h264"), ("x265", "hevc")])
def test_file_is_a_tagged_elementary_stream_of_8_bit_420(tmp_path, name, stream):
    ExternalCodec(name, preset="veryfast").encode(reader(), tmp_path / "a.bin", q=32)
    data = (tmp_path / "a.bin").read_bytes()
    assert data.startswith((b"\0\0\1", b"\0\0\0\1"))
    # neither encoder's text about itself is in the file
    assert b"x264" not in data
    assert b"x265" not in data
    with av.open(str(tmp_path / "a.bin")) as container:
        assert container.format.name == stream
        frame = next(container.decode(video=0))
    assert (frame.format.name, int(frame.colorspace), int(frame.color_range)) == ("yuv420p", 1, 1)


def test_lossless_x264_returns_the_planes_of_its_source(tmp_path):
    """At CRF 0 it is lossless, so any change would be ours: a 4:2:0 source must not pass through RGB."""
    planes = np.random.default_rng(0).integers(0, 256, 2 * 48 * 64 * 3 // 2, dtype=np.uint8)
    (tmp_path / "a.yuv").write_bytes(planes.tobytes())
    source = open_video(tmp_path / "a.yuv", size=(64, 48), color=SPEC)
    ExternalCodec("x264", preset="ultrafast").encode(source, tmp_path / "a.bin", crf=0)
    with av.open(str(tmp_path / "a.bin"), format="h264") as container:
        stored = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(video=0)])
    assert np.array_equal(stored, planes)
    decoded = torch.stack(list(ExternalCodec("x264").decode(tmp_path / "a.bin")))
    assert torch.equal(decoded, torch.stack(list(source)))


def test_assumed_colour_is_decoded_without_a_warning(tmp_path):
    """The stream is tagged with what was assumed, and warnings are errors here."""
    codec = CODECS[0]
    codec.encode(TensorReader(drifting(2), 25, ColorSpec.for_height(64)), tmp_path / "a.bin")
    assert len(list(codec.decode(tmp_path / "a.bin"))) == 2


@each_codec
def test_fractional_frame_rate_is_coded(codec, tmp_path):
    encoded = codec.encode(reader(frame_rate=Fraction(30000, 1001)), tmp_path / "a.bin")
    assert encoded.num_frames == 9


@each_codec
def test_one_frame_is_coded(codec, tmp_path):
    assert types(codec.encode(reader(drifting(1)), tmp_path / "a.bin")) == "I"
    assert len(list(codec.decode(tmp_path / "a.bin"))) == 1


@pytest.mark.parametrize("preset", ["veryfast", "medium"])
def test_x264_frames_are_one_slice_each(tmp_path, preset):
    """Slices side by side save time and cost rate."""
    codec = ExternalCodec("x264", preset)
    encoded = codec.encode(reader(), tmp_path / "a.h264", q=40)
    units = re.findall(rb"\x00\x00\x01(.)", (tmp_path / "a.h264").read_bytes(), re.DOTALL)
    slices = [unit for unit in units if unit[0] & 31 in (1, 5)]
    assert len(slices) == encoded.num_frames == 9


@pytest.mark.parametrize("name", ["x264", "x265"])
def test_encoder_tuned_to_psnr_has_a_better_one_at_the_same_size(tmp_path, name):
    """On real frames: of waves and noise there is nothing that only eyes would see."""
    frames = torch.stack(list(open_video(demo_clip(), frames=5, color=SPEC)))[..., :192, :320]

    def points(tune):
        codec = ExternalCodec(name, "medium", tune)
        for crf in (26, 30, 34):
            size = codec.encode(reader(frames), tmp_path / "a.bin", crf=crf).size_bytes
            yield np.log(size), psnr_db(torch.stack(list(codec.decode(tmp_path / "a.bin"))), frames)

    plain, tuned = ([*zip(*sorted(points(tune)), strict=True)] for tune in (None, "psnr"))
    assert tuned[1][1] > np.interp(tuned[0][1], *plain) + 0.1


def test_failing_reader_leaves_nothing(tmp_path):
    class Failing(TensorReader):
        def __iter__(self):
            yield self._frames[0]
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        CODECS[0].encode(Failing(drifting(3), 25, SPEC), tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


def test_odd_size_raises(tmp_path):
    with pytest.raises(ValueError, match="33x17, x264 codes even sides only"):
        CODECS[0].encode(reader(torch.zeros(1, 3, 17, 33)), tmp_path / "a.bin")


@pytest.mark.parametrize("q", [-1, 64])
def test_q_outside_its_range_raises(tmp_path, q):
    with pytest.raises(ValueError, match=f"q is {q}, expected 0"):
        CODECS[0].encode(reader(), tmp_path / "a.bin", q=q)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("x266",), "'x266' is unknown; the nearest .*'x265'"),
        (("x264", "slowe"), "'slowe' is unknown; .*'slower'"),
        (("x264", "slow", "eyes"), "'eyes' is unknown, expected one of psnr, ssim"),
    ],
)
def test_unknown_names_list_the_nearest(settings, message):
    with pytest.raises(ValueError, match=message):
        ExternalCodec(*settings)
