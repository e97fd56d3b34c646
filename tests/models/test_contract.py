"""What every model of the zoo must do."""

import copy
import io
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from lvc_zoo import RandomAccess, VideoCodec, create_model, list_models
from lvc_zoo.codec.reader import TensorReader
from lvc_zoo.codec.sequence import code_sequence
from lvc_zoo.codec.video import DEFAULT_Q
from lvc_zoo.entropy.coder import Noise, RateEstimator
from lvc_zoo.gop import FrameType, LowDelay
from lvc_zoo.hub import bundled_names
from tests.miniature import moving_clip

ROOT = Path(__file__).resolve().parents[2]
DECODE = """
import sys, torch
from lvc_zoo import VideoCodec
torch.set_num_threads(int(sys.argv[3]))
torch.save(torch.stack(list(VideoCodec.from_pretrained(sys.argv[1]).decode(sys.argv[2]))), sys.argv[4])
"""


def load(name):
    """The bundled weights where there are some, else untrained ones."""
    if name in bundled_names():
        return VideoCodec.from_pretrained(name)
    torch.manual_seed(0)
    return create_model(name).eval()


@pytest.fixture(scope="module", params=list_models())
def codec(request):
    return load(request.param)


@pytest.fixture(scope="module")
def structure(codec):
    """I4 B2 B1 B3 after I0, or I0 P1 P2 I3 P4: over five frames every type, and a frame after the second I frame."""
    if FrameType.B in codec.frame_types:
        return RandomAccess(4)
    return LowDelay(3) if FrameType.P in codec.frame_types else codec.default_structure


@pytest.fixture(scope="module")
def q(codec):
    return 21 if len(codec.lambdas) > 1 else DEFAULT_Q


@pytest.fixture(scope="module")
def coded(codec, structure, q):
    """A five-frame clip, its stream, and the encoder's frames and records by POC."""
    clip, file = moving_clip(5, 33, 50), io.BytesIO()
    frames = {f.plan.poc: (f, record) for f, record in codec.encode_frames(TensorReader(clip), file, q, structure)}
    return clip, file.getvalue(), [frames[poc] for poc in range(5)]


def test_decode_same_process_equals_reconstruction(codec, coded):
    _, data, frames = coded
    assert torch.equal(codec.decompress(data), torch.cat([f.x_hat for f, _ in frames]))


def test_decode_other_process_and_threads_equals_reconstruction(codec, coded, tmp_path):
    _, data, frames = coded
    weights, stream, out = tmp_path / "weights", tmp_path / "clip.lvc", tmp_path / "frames.pt"
    codec.save_pretrained(weights)
    stream.write_bytes(data)
    threads = 1 if torch.get_num_threads() > 1 else 2
    command = [sys.executable, "-c", DECODE, str(weights), str(stream), str(threads), str(out)]
    # threads that wait asleep: on a busy machine spinning ones take ten times as long
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    assert torch.equal(torch.load(out, weights_only=True), torch.cat([f.x_hat for f, _ in frames]))


def test_payload_close_to_ideal_code_length(coded):
    for _, record in coded[2]:
        assert record.framing_bytes <= 8
        assert record.payload_bytes <= sum(record.bits.values()) / 8 * 1.001 + 16


def test_payload_trained_close_to_estimate(codec, structure, q, coded):
    if codec.variant not in bundled_names():
        pytest.skip("only trained weights have scales inside the tables' range")
    clip, _, frames = coded
    with torch.no_grad():
        estimate = codec(clip, q, structure)
    for poc, (_, record) in enumerate(frames):
        bits = sum(float(part[0, poc]) for part in estimate.bits.values())
        assert abs(record.payload_bytes - bits / 8) <= 0.01 * bits / 8 + 16


def test_last_gop_alone_gives_the_same_frames(codec, coded):
    """Nothing that a network keeps crosses an I frame."""
    _, data, frames = coded
    last = max(f.plan.poc for f, _ in frames if f.plan.frame_type is FrameType.I)
    part = torch.stack(list(codec.decode(io.BytesIO(data), range(last, 5))))
    assert torch.equal(part, torch.cat([f.x_hat for f, _ in frames[last:]]))


def test_coding_leaves_modules_unchanged(codec, structure, q, coded):
    clip = coded[0]
    before, flags = copy.deepcopy(codec.state_dict()), [m.training for m in codec.modules()]
    keys = {name: set(vars(m)) for name, m in codec.named_modules()}
    codec.decompress(codec.compress(clip[:2], q, structure))
    assert all(torch.equal(value, before[name]) for name, value in codec.state_dict().items())
    assert [m.training for m in codec.modules()] == flags
    assert {name: set(vars(m)) for name, m in codec.named_modules()} == keys


def test_cache_saves_reference_calls_and_changes_nothing(codec, structure, coded, monkeypatch):
    if codec.inter is None:
        pytest.skip("an intra codec has no references")
    calls = Counter()
    reference = codec.inter.reference

    def counted(picture, plan):
        calls["reference"] += 1
        return reference(picture, plan)

    monkeypatch.setattr(codec.inter, "reference", counted)
    _, data, _ = coded
    results = {}
    for cache in (True, False):
        calls.clear()
        frames = torch.stack(list(codec.decode(io.BytesIO(data), cache=cache)))
        results[cache] = frames, calls["reference"]
    uses = [poc for plan in structure.plans(5) for poc in plan.references if poc is not None]
    assert torch.equal(results[True][0], results[False][0])
    assert (results[True][1], results[False][1]) == (len(set(uses)), len(uses))


def test_decoder_never_sees_the_picture(codec, coded):
    seen = []
    networks = [n for n in (codec.intra, codec.inter) if n is not None]
    handles = [n.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for n in networks]
    try:
        codec.decompress(coded[1])
    finally:
        for handle in handles:
            handle.remove()
    assert seen == [None] * 5


@pytest.mark.slow
@pytest.mark.skipif("lstec-tiny" not in bundled_names(), reason="states of untrained weights grow without bound")
@pytest.mark.parametrize("structure", [LowDelay(32), LowDelay(None)], ids=str)
def test_97_frames_of_low_delay_decode_bit_exactly(structure):
    codec, clip, file = load("lstec-tiny"), moving_clip(97, 32, 48), io.BytesIO()
    coded = codec.encode_frames(TensorReader(clip), file, 21, structure)
    x_hat = torch.cat([f.x_hat for f, _ in coded])
    assert torch.equal(codec.decompress(file.getvalue()), x_hat)


@pytest.mark.parametrize("name", list_models())
def test_every_parameter_gets_a_gradient(name):
    """On the smallest picture and all anchors.

    Over 33 frames, five layers of B frames with references of every kind, or over 9 frames with one I frame, eight
    positions of P frames.
    """
    torch.manual_seed(0)
    codec = create_model(name)
    with torch.no_grad():
        # untrained hyper latents all round to zero, and a layer that only sees zeros gets no gradient
        for module_name, module in codec.named_modules():
            if module_name.endswith("hyper.analysis"):
                module[-1].weight *= 100
    structure, frames = (LowDelay(None), 9) if FrameType.P in codec.frame_types else (LowDelay(1), 1)
    if FrameType.B in codec.frame_types:
        structure, frames = RandomAccess(32), 33
    side = codec.pad_multiple
    clip = torch.stack([moving_clip(frames, side, side, seed=i) for i in range(len(codec.lambdas))])
    rate = torch.arange(len(codec.lambdas)).float()

    class Source:
        size = (side, side)

        def __call__(self, poc):
            return clip[:, poc]

    loss = torch.zeros(())
    plans = structure.plans(frames)
    for frame in code_sequence(codec, Source(), plans, lambda p: RateEstimator(Noise(0, 0, 0, p.poc)), rate):
        bits = torch.stack(list(frame.coder.bits.values())).sum()
        loss = loss + bits / side**2 + 1000 * (frame.x_hat_raw - clip[:, frame.plan.poc]).square().mean()
    loss.backward()
    without = [n for n, p in codec.named_parameters() if p.grad is None or not p.grad.any()]
    broken = [n for n, p in codec.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    assert (without, broken) == ([], [])
