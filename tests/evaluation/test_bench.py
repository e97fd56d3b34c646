"""What the bench measures, against the codec's own streams."""

import io
import json

import pytest
import torch

from lvc_zoo import VideoCodec, create_model
from lvc_zoo.codec.container import StreamReader, coded_frames
from lvc_zoo.codec.reader import TensorReader
from lvc_zoo.evaluation.bench import (
    SMALL_FRAME,
    BenchRequest,
    Machine,
    bench_clip,
    bench_structure,
    measure_coder,
    measure_stages,
    run_bench,
)
from lvc_zoo.gop import LowDelay, RandomAccess
from tests.miniature import miniature, moving_clip
from tests.recurrent import recurrent


@pytest.fixture(scope="module")
def codec(tiny_weights):
    return VideoCodec.from_pretrained(tiny_weights)


def test_coder_cost_of_small_frame_is_within_16_bytes(codec):
    costs = measure_coder(codec, bench_clip(3, SMALL_FRAME))
    assert {cost.frame_type for cost in costs} == {"I", "B"}
    for cost in costs:
        assert 0 <= cost.framing_bytes + cost.flush_bytes <= 16
        # one symbol of y in 16 x 16 pixels for each of its channels, and more for z and motion
        assert cost.num_symbols > 160 * 18 * 22


def test_coder_payload_is_that_of_the_stream(codec):
    clip, file = moving_clip(1, 32, 48), io.BytesIO()
    list(codec.encode_frames(TensorReader(clip), file, q=0))
    file.seek(0)
    (_, packet), *_ = coded_frames(StreamReader(file))
    (cost,) = measure_coder(codec, clip)
    assert (cost.payload_bytes, cost.framing_bytes) == (len(packet.payload), packet.framing)


def test_stage_times_contain_their_coder(codec):
    times = measure_stages(codec, moving_clip(3, 32, 48))
    assert [(t.frame_type, t.frames) for t in times] == [("I", 2), ("B", 1)]
    for t in times:
        assert 0 < t.encode_coder_s < t.encode_s
        assert 0 < t.decode_coder_s < t.decode_s


def test_low_delay_times_and_coder_cost_show_both_types():
    codec = recurrent()
    assert [(t.frame_type, t.frames) for t in measure_stages(codec, moving_clip(4, 32, 48))] == [("I", 1), ("P", 3)]
    costs = {cost.frame_type: cost for cost in measure_coder(codec, moving_clip(2, 32, 48))}
    assert list(costs) == ["I", "P"]
    for cost in costs.values():
        assert cost.num_symbols == 6 * 8 * 12  # latent channels, a quarter of each side
        assert 0 <= cost.flush_bytes <= 8


def test_coder_cost_of_a_codec_for_a_single_rate_is_at_its_own():
    codec = recurrent()
    codec.lambdas = (1.0,)
    (cost,) = measure_coder(codec, moving_clip(1, 32, 48))
    data = codec.compress(moving_clip(1, 32, 48))
    assert cost.payload_bytes == len(next(coded_frames(StreamReader(io.BytesIO(data))))[1].payload)


@pytest.mark.parametrize(("frames", "period"), [(1, 2), (3, 2), (5, 4), (9, 8), (100, 32)])
def test_bench_structure_fits_the_frames(frames, period):
    assert bench_structure(miniature(), frames) == RandomAccess(period)


def test_bench_structure_of_intra_codec_is_its_own():
    small = {"widths": (8, 8, 8), "latent": 16, "hyper": 8, "refine_depth": 1}
    assert bench_structure(create_model("dcvc-dc-intra", **small), 9) == LowDelay(1)


def test_bench_structure_of_low_delay_codec_is_its_own():
    assert bench_structure(recurrent(), 9) == LowDelay(32)


def test_bench_clip_fills_any_size():
    for size in ((288, 352), (16, 200), (300, 300)):
        clip = bench_clip(2, size)
        assert clip.shape == (2, 3, *size)
        assert 0 <= clip.min() < clip.max() <= 1


def test_report_never_gives_times_without_their_place():
    report = run_bench(miniature(), "miniature", "untrained", BenchRequest(complexity=False, size=(48, 32), frames=3))
    data = json.loads(json.dumps(report.to_json()))
    assert data["machine"]["torch"] == torch.__version__
    assert data["machine"]["threads"] == torch.get_num_threads()
    assert data["time_size"] == [48, 32]
    assert str(Machine.of(miniature())) in "\n".join(item for item in report.tables() if isinstance(item, str))
