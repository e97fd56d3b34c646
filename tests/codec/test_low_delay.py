"""Low delay through the loop, the container and the files, with a small recurrent codec."""

import io
import re
from fractions import Fraction
from itertools import islice

import pytest
import torch

from lvc_zoo.codec.container import StreamReader, coded_frames
from lvc_zoo.codec.reader import TensorReader
from lvc_zoo.errors import BitstreamError
from lvc_zoo.gop import FrameType, LowDelay, RandomAccess
from tests.counting import Counting
from tests.miniature import moving_clip
from tests.recurrent import recurrent

SIZE = (16, 24)


@pytest.fixture(scope="module")
def codec():
    return recurrent()


@pytest.fixture(scope="module")
def stream(codec):
    """Eleven frames, an I frame every four: clip, bytes, frames."""
    clip = moving_clip(11, *SIZE)
    data = codec.compress(clip, 40, LowDelay(4))
    return clip, data, codec.decompress(data)


def encode(codec, clip, structure, **options):
    """Bytes and the encoder's own frames."""
    file = io.BytesIO()
    coded = [f.x_hat[0] for f, _ in codec.encode_frames(TensorReader(clip), file, 40, structure, **options)]
    return file.getvalue(), torch.stack(coded)


def packet_ends(data):
    """Offset after each packet."""
    file = io.BytesIO(data)
    return [file.tell() for _ in coded_frames(StreamReader(file))]


class Pipe(io.RawIOBase):
    """Bytes that come one after the other, counted; no seeking."""

    def __init__(self, data):
        self.inner, self.taken = io.BytesIO(data), 0

    def read(self, size=-1):
        data = self.inner.read(size)
        self.taken += len(data)
        return data


# ---- frames


@pytest.mark.parametrize("num_frames", [1, 2, 5, 9])
@pytest.mark.parametrize("period", [1, 2, 4, None])
def test_stream_of_any_length_decodes_to_encoder_reconstruction(codec, num_frames, period):
    data, x_hat = encode(codec, moving_clip(num_frames, 17, 9), LowDelay(period))
    assert torch.equal(codec.decompress(data), x_hat)
    types = [plan.frame_type.name for plan, _ in coded_frames(StreamReader(io.BytesIO(data)))]
    assert "".join(types) == ("I" + "P" * ((period or 99) - 1) + ("I" + "P" * ((period or 99) - 1)) * 9)[:num_frames]


def test_state_matters_and_starts_anew_at_an_intra_frame(codec):
    """The codec would be no test of recurrence otherwise."""
    clip = moving_clip(6, *SIZE)
    whole, halves = (encode(codec, clip, LowDelay(period))[1] for period in (None, 3))
    assert torch.equal(whole[:3], halves[:3])
    assert not torch.equal(whole[3:], halves[3:])
    assert torch.equal(encode(codec, clip[3:], LowDelay(None))[1], halves[3:])
    update = codec.inter.update.weight
    with torch.no_grad():
        kept = update.clone()
        update[:, codec.config.latent :] = 0
        forgetful = encode(codec, clip, LowDelay(None))[1]
        update.copy_(kept)
    assert torch.equal(forgetful[:2], whole[:2])
    assert not torch.equal(forgetful[2], whole[2])


def test_cache_changes_no_byte(codec, stream):
    clip, data, decoded = stream
    assert encode(codec, clip, LowDelay(4), cache=False)[0] == data
    assert torch.equal(torch.stack(list(codec.decode(io.BytesIO(data), cache=False))), decoded)


def test_long_gop_decodes_bit_exactly_and_seeks(codec):
    data, x_hat = encode(codec, moving_clip(300, 4, 4), LowDelay(None))
    plans = [plan for plan, _ in coded_frames(StreamReader(io.BytesIO(data)))]
    assert [plan.position for plan in plans] == list(range(300))
    assert len(StreamReader(io.BytesIO(data)).index()) == 1
    assert torch.equal(codec.decompress(data), x_hat)
    assert torch.equal(torch.stack(list(codec.decode(io.BytesIO(data), range(290, 300)))), x_hat[290:])


def test_structure_with_b_frames_raises(codec):
    with pytest.raises(ValueError, match=r"Recurrent codes I, P frames, not B; use a structure like LowDelay"):
        codec.compress(moving_clip(1, *SIZE), 40, RandomAccess(4))


# ---- one frame after the other


@pytest.mark.parametrize("structure", [LowDelay(3), LowDelay(None), LowDelay(1)], ids=str)
def test_encoder_writes_each_frame_before_it_needs_the_one_after_next(codec, structure, tmp_path):
    clip, path = moving_clip(8, *SIZE), tmp_path / "a.lvc"

    def written():
        frames = []
        with path.open("rb") as file, pytest.raises(BitstreamError, match="truncated"):
            frames.extend(plan.poc for plan, _ in coded_frames(StreamReader(file)))
        return frames

    class Camera:
        height, width, frame_rate, num_frames, color = *SIZE, Fraction(25), None, TensorReader(clip).color

        def __iter__(self):
            for poc, frame in enumerate(clip):
                if poc >= 2:
                    assert written() == list(range(poc - 1))
                yield frame

    with path.open("wb") as file:
        records = [record for _, record in codec.encode_frames(Camera(), file, 40, structure)]
    assert len(records) == 8
    assert path.read_bytes() == codec.compress(clip, 40, structure)


@pytest.mark.parametrize("structure", [LowDelay(4), LowDelay(None)], ids=str)
def test_decoder_gives_each_frame_before_it_reads_the_next_packet(codec, structure):
    data, x_hat = encode(codec, moving_clip(9, *SIZE), structure)
    pipe = Pipe(data)
    for end, frame, x in zip(packet_ends(data), codec.decode(pipe), x_hat, strict=True):
        assert torch.equal(frame, x)
        assert pipe.taken == end


def test_decoder_needs_no_trailer_for_the_frames_before_it(codec, stream):
    _, data, decoded = stream
    ends = packet_ends(data)
    frames = codec.decode(io.BytesIO(data[: ends[0]]))
    assert torch.equal(next(frames), decoded[0])
    with pytest.raises(BitstreamError, match="ends before frame 1: truncated, or still being written"):
        next(frames)
    frames = codec.decode(io.BytesIO(data[: ends[-1]]))
    assert torch.equal(torch.stack(list(islice(frames, 11))), decoded)


# ---- seeking


@pytest.mark.parametrize("frames", [range(11), range(1), range(2, 3), range(3, 6), range(4, 8), range(9, 11)], ids=str)
def test_decode_of_a_range_is_a_slice_and_reads_its_gops_alone(codec, stream, frames):
    _, data, decoded = stream
    file = Counting(data)
    part = torch.stack(list(codec.decode(file, frames)))
    assert torch.equal(part, decoded[frames.start : frames.stop])
    index = StreamReader(io.BytesIO(data)).index()
    ends = packet_ends(data)
    for entry, end in zip(index, [*(e.offset for e in index[1:]), ends[-1]], strict=True):
        is_wanted = entry.first < frames.stop and frames.start < entry.first + entry.frames
        assert bool(file.touched & set(range(entry.offset, end))) == is_wanted
    # nor what follows in the last of them
    assert not file.touched & set(range(ends[frames.stop - 1], ends[-1]))


def test_damage_gives_the_frames_before_it_and_spares_other_gops(codec, stream):
    _, data, decoded = stream
    hole = packet_ends(data)[5] - 2
    damaged = data[:hole] + bytes([data[hole] ^ 1]) + data[hole + 1 :]
    frames = []
    with pytest.raises(BitstreamError, match="packet of frame 5 fails its CRC") as caught:
        frames.extend(codec.decode(io.BytesIO(damaged)))
    assert caught.value.poc == 5
    assert torch.equal(torch.stack(frames), decoded[:5])
    assert torch.equal(torch.stack(list(codec.decode(io.BytesIO(damaged), range(8, 11)))), decoded[8:])


@pytest.mark.parametrize("period", [1, 3])
def test_spliced_gop_of_a_video_that_begins_alike_is_refused(codec, period):
    """Both begin with the same picture, and each GOP decodes by itself."""
    clips = [moving_clip(9, *SIZE, seed) for seed in (0, 1)]
    clips[1][0] = clips[0][0]
    ours, theirs = (codec.compress(clip, 40, LowDelay(period)) for clip in clips)
    a, b = ([e.offset for e in StreamReader(io.BytesIO(data)).index()] for data in (ours, theirs))
    spliced = ours[: a[-2]] + theirs[b[-2] : b[-1]] + ours[a[-1] :]
    first = StreamReader(io.BytesIO(ours)).index()[-2].first
    frames = []
    with pytest.raises(BitstreamError, match=re.escape(f"frame {first} fails its CRC")):
        frames.extend(codec.decode(io.BytesIO(spliced)))
    assert torch.equal(torch.stack(frames), codec.decompress(ours)[:first])


def test_frame_types_of_records_are_those_of_the_structure(codec, tmp_path):
    report = codec.encode(TensorReader(moving_clip(5, *SIZE)), tmp_path / "a.lvc", 40, LowDelay(3))
    assert [(r.poc, r.frame_type, r.layer) for r in report.frames] == [
        (0, FrameType.I.name, 0),
        (1, FrameType.P.name, 1),
        (2, FrameType.P.name, 1),
        (3, FrameType.I.name, 0),
        (4, FrameType.P.name, 1),
    ]
