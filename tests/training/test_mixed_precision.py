"""bfloat16 in the networks, float32 where rates, positions and flows are made."""

import pytest
import torch

from lvc_zoo.blocks.motion import accumulate_flow, warp
from lvc_zoo.entropy.coder import RateEstimator
from lvc_zoo.training.tasks import BiECVCTask, DCVCTCMTask, LSTECTask
from tests.training.by_hand import SMALL, attached, batch, gradients, stage

SPYNET = {"estimator": "spynet", "spynet_widths": (4, 4, 4, 4), "spynet_kernel": 3}
TCM = {"channels": 4, "latent": 4, "motion": 4, "intra.channels": 4, "spynet_widths": (4, 4, 4, 4)}
CODECS = [
    (BiECVCTask, "biecvc-tiny", SMALL, 3),
    (BiECVCTask, "biecvc-tiny", SMALL | SPYNET | {"motion_shortcut": False}, 3),
    (LSTECTask, "lstec-tiny", SMALL, 3),
    (DCVCTCMTask, "dcvc-tcm", TCM, 3),
]


def small_task(task, variant, overrides, num_frames, **row):
    torch.manual_seed(0)
    return attached(task(variant, overrides=overrides, stages=[stage(num_frames=num_frames, **row)]))


@pytest.mark.parametrize(("task", "variant", "overrides", "num_frames"), CODECS)
def test_flows_bits_and_latents_are_float32_under_autocast(task, variant, overrides, num_frames):
    trained, kinds = small_task(task, variant, overrides, num_frames), set()
    clip = batch(num_frames, size=64)

    class Watching(RateEstimator):
        def code(self, y, distribution, *, name):
            y_hat = super().code(y, distribution, name=name)
            kinds.update({("bits", self.bits[name].dtype), ("y_hat", y_hat.dtype)})
            return y_hat

    trained.coder_for = lambda first: lambda plan: Watching()
    whole = trained.frame_loss
    trained.frame_loss = lambda frame, *rest: (
        kinds.update({("flow", f.dtype) for f in frame.motion}),
        whole(frame, *rest),
    )[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained.backpropagate(clip)
    assert kinds == {("bits", torch.float32), ("y_hat", torch.float32), ("flow", torch.float32)}
    assert {g.dtype for g in gradients(trained).values()} == {torch.float32}
    assert all(bool(g.isfinite().all()) for g in gradients(trained).values())


def test_bfloat16_features_are_sampled_at_float32_positions():
    ramp = torch.arange(256.0).expand(1, 1, 4, 256) / 256
    flow = torch.full((1, 2, 4, 256), 0.0)
    flow[:, 0] = 0.3
    exact = warp(ramp, flow)
    assert warp(ramp.bfloat16(), flow).dtype == torch.bfloat16
    # half a pixel is 1 / 512; bfloat16 near 1 has steps of 1 / 256, which the nearest value halves
    torch.testing.assert_close(warp(ramp.bfloat16(), flow).float(), exact, atol=2**-9 + 1e-5, rtol=0)


def test_flows_add_up_in_float32():
    flow = torch.full((1, 2, 8, 8), 10.03)
    further = torch.full((1, 2, 8, 8), 20.02)
    assert accumulate_flow(flow, further).dtype == torch.float32
    torch.testing.assert_close(accumulate_flow(flow, further), torch.full((1, 2, 8, 8), 30.05))


@pytest.mark.parametrize("row", [{"backpropagation": "detached"}, {"checkpointing": True}])
def test_autocast_chunks_and_checkpoints_give_cascaded_loss(row):
    losses = []
    for changes in ({}, row):
        trained = small_task(LSTECTask, "lstec-tiny", SMALL, 3, **changes)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            values = trained.backpropagate(batch(3)).means(trained.trainer.strategy.reduce)
        losses.append(float(values["loss"]))
        reached = gradients(trained)
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert any(name.startswith("encoder.") and bool(g.abs().max() > 0) for name, g in reached.items())
