"""The training loop: chunks, frozen parts, rates that count, and errors before the first step."""

from dataclasses import replace

import pytest
import torch

from lvc_zoo import create_model
from lvc_zoo.codec.sequence import code_sequence
from lvc_zoo.data.datasets import TrainingClip
from lvc_zoo.gop import FrameType, RandomAccess
from lvc_zoo.training.losses import squared_error
from lvc_zoo.training.tasks import BiECVCTask, ClipSource, DCVCTCMTask, IntraTask, LSTECTask
from lvc_zoo.training.video import chunks, detach, load_codec
from tests.training.by_hand import SMALL, attached, batch, gradients, stage

CODECS = [(BiECVCTask, "biecvc-tiny"), (LSTECTask, "lstec-tiny")]


def small_task(task, variant, **row):
    torch.manual_seed(0)
    return attached(task(variant, overrides=SMALL, stages=[stage(**row)]))


def run(task, clip, **row):
    task.stages = (replace(task.stages[0], **row),)
    task.network.zero_grad()
    values = task.backpropagate(clip).means(task.trainer.strategy.reduce)
    return values, gradients(task)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6 * float(value.abs().max()) + 1e-12)


@pytest.mark.parametrize(("task", "variant"), CODECS)
def test_chunk_as_long_as_the_clip_gives_cascaded_gradients(task, variant):
    trained = small_task(task, variant)
    values, expected = run(trained, batch(5))
    again, found = run(trained, batch(5), backpropagation="chunked", chunk=4)
    assert again["loss"] == values["loss"]
    assert_same(found, expected)


@pytest.mark.parametrize(("task", "variant"), CODECS)
def test_chunked_gradients_equal_frames_coded_from_a_detached_buffer(task, variant):
    trained = small_task(task, variant)
    clip = batch(5)
    values, found = run(trained, clip, backpropagation="chunked", chunk=2)

    # by hand: every frame of a chunk from one loss, over a buffer without gradients between chunks of two
    trained.network.zero_grad()
    lambdas = torch.tensor(trained.codec.lambdas)
    balance = (lambdas[0] * lambdas[3]) ** 0.25 / lambdas.sqrt()
    plans = trained.plans(5, 1)
    predicted = [plan for plan in plans if plan.frame_type is trained.trained]
    others = [plan for plan in plans if plan.frame_type is not trained.trained]
    dpb, losses = {}, []
    groups = [[*others, *predicted[:2]], *(predicted[i : i + 2] for i in range(2, len(predicted), 2))]
    for group in groups:
        rate, source = torch.arange(4.0), ClipSource(clip.frames)
        for frame in code_sequence(trained.codec, source, group, trained.coder_for(0), rate, dpb=dpb):
            if frame.plan in predicted:
                bits = torch.stack(list(frame.coder.bits.values())).sum(dim=0) / (32 * 32)
                error = squared_error(frame.x_hat_raw, clip.frames[:, frame.plan.poc])
                losses.append(balance * (bits + trained.weight_of(frame.plan) * lambdas * error))
        for poc in dpb:
            picture = dpb[poc].picture
            dpb[poc] = dpb[poc]._replace(picture=detach(picture))
    loss = torch.stack(losses).mean()
    loss.backward()
    torch.testing.assert_close(values["loss"], loss.detach())
    assert_same(found, gradients(trained))


def test_detached_clip_differs_from_cascaded_one():
    trained = small_task(LSTECTask, "lstec-tiny", num_frames=3)
    values, cascaded = run(trained, batch(3))
    again, detached = run(trained, batch(3), backpropagation="detached")
    assert again["loss"] == values["loss"]
    # the recurrent cells have a gradient only across frames
    assert any("chain.cell" in name for name in cascaded)
    assert not any("chain.cell" in name for name in detached)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_chunks_hold_every_plan_once_in_order(size):
    plans = RandomAccess(8).plans(9)
    cut = chunks(plans, FrameType.B, size)
    assert [plan for chunk in cut for plan in chunk] == plans
    counts = [sum(plan.frame_type is FrameType.B for plan in chunk) for chunk in cut]
    assert counts[:-1] == [size] * (7 // size) if 7 % size else counts == [size] * (7 // size)


@pytest.mark.parametrize(("task", "variant"), CODECS)
@pytest.mark.parametrize("part", ["motion", "all-but-motion"])
def test_frozen_weights_stay_bit_equal(task, variant, part):
    trained = small_task(task, variant, trained=part, num_frames=3)
    before = {name: value.clone() for name, value in trained.codec.named_parameters()}
    optimizer = trained.configure_optimizers()
    for step in range(2):
        trained.trainer.global_step = step
        optimizer.zero_grad()
        trained.backpropagate(batch(3))
        optimizer.step()
    changed = {name for name, value in trained.codec.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("inter.") for name in changed)
    assert all(name.startswith("inter.motion.") == (part == "motion") for name in changed)


@pytest.mark.parametrize(
    ("task", "variant", "num_frames", "steps"),
    [(BiECVCTask, "biecvc-tiny", 9, [0]), (LSTECTask, "lstec-tiny", 4, [0, 2])],
)
def test_cascaded_clips_reach_every_weight(task, variant, num_frames, steps):
    trained = small_task(task, variant, num_frames=num_frames)
    for step in steps:  # at different places of the weights' cycle
        trained.trainer.global_step = step
        trained.backpropagate(batch(num_frames))
    lacking = {name for name, _ in trained.network.named_parameters()} - set(gradients(trained))
    # a nine-frame tree of neighbours has references of layers 3 and 4 alone
    assert lacking == {f"miner.adaptor_inter.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")} & lacking
    assert task is BiECVCTask or not lacking


def test_rate_of_motion_counts_its_hyper_latent():
    trained = small_task(LSTECTask, "lstec-tiny", num_frames=2)
    values = {}
    for rate in ((), ("motion",), ("frame",), ("motion", "frame")):
        values[rate] = float(run(trained, batch(2), rate=rate, frame_weights=False)[0]["loss"])
    torch.testing.assert_close(values["motion", "frame"] + values[()], values["motion",] + values["frame",])
    hyper = [n for n, _ in trained.network.motion.latents.hyper.prior.named_parameters()]
    _, found = run(trained, batch(2), rate=("motion",))
    assert all(f"motion.latents.hyper.prior.{name}" in found for name in hyper)
    assert not any(name.startswith("latents.hyper.prior.") for name in found)


def test_warp_distortion_trains_motion_alone():
    trained = small_task(BiECVCTask, "biecvc-tiny", num_frames=3, distortion="warp", rate=())
    _, found = run(trained, batch(3))
    assert found
    assert all(name.startswith("motion.") for name in found)


def test_loss_of_single_rate_codec_is_rate_plus_weighted_distortion():
    torch.manual_seed(0)
    small = {"channels": 4, "latent": 4, "motion": 4, "intra.channels": 4, "spynet_widths": (4, 4, 4, 4)}
    trained = attached(DCVCTCMTask(overrides=small, stages=[stage(num_frames=2)]))
    values = trained.backpropagate(batch(2, size=64, samples=3)).means(trained.trainer.strategy.reduce)
    error = 3 * 10 ** (-values["psnr_db_0"] / 10)
    # one sample's PSNR is not the PSNR of the mean; these clips are alike
    torch.testing.assert_close(values["loss"], values["bpp_0"] + 1024 / 3 * error, rtol=0.1, atol=0)


def test_batch_that_cannot_hold_every_anchor_raises():
    with pytest.raises(ValueError, match="cannot hold 4 anchors equally often"):
        small_task(IntraTask, "biecvc-tiny", num_frames=1).backpropagate(batch(1, samples=3))


def test_clips_of_another_length_than_the_stage_raise():
    with pytest.raises(ValueError, match=r"clips have 3 frames, stage 'test' asks for 5"):
        small_task(LSTECTask, "lstec-tiny").backpropagate(batch(3))


def test_crop_that_the_codec_would_pad_raises():
    clip = TrainingClip(torch.zeros(4, 2, 3, 40, 32), torch.ones(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"crops of 40x32 do not suit .*, expected multiples of 16; change crop"):
        small_task(LSTECTask, "lstec-tiny", num_frames=2).backpropagate(clip)


def test_motion_stage_of_intra_codec_raises():
    with pytest.raises(ValueError, match="has no motion; use 'all'"):
        small_task(IntraTask, "biecvc-tiny", num_frames=1, trained="motion")


def test_overrides_beside_weights_raise(tiny_weights):
    with pytest.raises(ValueError, match="leave one out"):
        load_codec("biecvc-tiny", str(tiny_weights), overrides={"gating": False})


def test_intra_network_of_other_shape_raises(tiny_weights):
    with pytest.raises(ValueError, match=r"does not fit .*; name weights of a codec with the same intra config"):
        LSTECTask("lstec-tiny", overrides=SMALL, intra=str(tiny_weights))


def test_intra_network_of_another_rate_raises(tmp_path):
    """Its weights would fit."""
    small = {"channels": 8, "intra.channels": 16}
    create_model("dcvc-tcm", **small, **{"intra.lambda_rd": 682.0}).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"these entries differ, here and there: \{'lambda_rd': \(341.* 682"):
        load_codec("dcvc-tcm", intra=str(tmp_path / "other"), overrides=small)


def test_intra_network_is_taken_over(tiny_weights):
    trained = BiECVCTask("biecvc-tiny", intra=str(tiny_weights), stages=[stage()])
    source = load_codec("biecvc-tiny", str(tiny_weights)).intra.state_dict()
    assert all(torch.equal(value, source[name]) for name, value in trained.codec.intra.state_dict().items())
    assert trained.codec.metadata["intra"] == {"weights": str(tiny_weights), "variant": "biecvc-tiny", "training": []}
