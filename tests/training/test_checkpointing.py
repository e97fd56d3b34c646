"""Activation checkpointing changes memory, nothing else."""

import gc
from dataclasses import replace

import pytest
import torch

from lvc_zoo.training.tasks import BiECVCTask, LSTECTask
from tests.training.by_hand import SMALL, attached, batch, gradients, saved_elements, stage

CODECS = [(BiECVCTask, "biecvc-tiny"), (LSTECTask, "lstec-tiny")]


def small_task(task, variant, **row):
    torch.manual_seed(0)
    return attached(task(variant, overrides=SMALL, stages=[stage(**({"num_frames": 9} | row))]))


@pytest.mark.parametrize(("task", "variant"), CODECS)
def test_checkpointed_clip_has_same_loss_bits_and_gradients(task, variant):
    plain, bits = small_task(task, variant, warp_weight=0.1), []
    clip = batch(9)

    def run():
        plain.network.zero_grad()
        seen = {}

        def keep(frame, work, tally):
            seen.update({(frame.plan.poc, name): value.detach() for name, value in frame.coder.bits.items()})
            return type(plain).frame_loss(plain, frame, work, tally)

        plain.frame_loss = keep
        loss = plain.backpropagate(clip).means(plain.trainer.strategy.reduce)["loss"]
        bits.append(seen)
        return loss, gradients(plain)

    loss, expected = run()
    plain.stages = (replace(plain.stages[0], checkpointing=True),)
    loss_again, found = run()
    torch.testing.assert_close(loss_again, loss, rtol=1e-6, atol=0)
    assert bits[0].keys() == bits[1].keys()
    assert {poc for poc, _ in bits[0]} == set(range(9)) - ({0, 8} if task is BiECVCTask else {0})
    for key, value in bits[0].items():
        torch.testing.assert_close(bits[1][key], value, rtol=1e-6, atol=0)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6 * float(value.abs().max()))


@pytest.mark.parametrize(("task", "variant"), CODECS)
@pytest.mark.parametrize("row", [{"checkpointing": True}, {"backpropagation": "detached"}])
def test_checkpointing_and_detachment_keep_less_for_the_backward_pass(task, variant, row):
    peaks = []
    for changes in ({}, row):
        trained = small_task(task, variant, num_frames=5, **changes)
        with saved_elements() as count:
            trained.backpropagate(batch(5))
        gc.collect()
        assert count.now == 0
        peaks.append(count.peak)
    # what the second pass of a checkpointed frame keeps for a moment is not counted
    assert peaks[1] < peaks[0] / 2
