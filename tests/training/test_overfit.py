"""The learning signal reaches every part: one clip, learned by heart from initialisation."""

from itertools import islice

import pytest
import torch

from lvc_zoo.color import ColorSpec
from lvc_zoo.data import open_video
from lvc_zoo.data.clips import demo_clip
from lvc_zoo.data.datasets import TrainingClip
from lvc_zoo.gop import LowDelay
from lvc_zoo.training.tasks import BiECVCTask, LSTECTask
from tests.training.by_hand import attached, stage

STEPS = 500
ANCHOR = 3


@pytest.fixture(scope="module")
def clip():
    """Nine 64x64 frames of a real clip."""
    reader = open_video(demo_clip(), color=ColorSpec("bt601", assumed=True))
    frames = torch.stack(list(islice(reader, 9)))[..., 100:164, 300:364]
    return TrainingClip(frames[None], torch.ones(1, dtype=torch.int64))


def intra_loss(task, clip):
    """The loss of coding the trained frames intra, under the same weights of frames and of the anchor."""
    lambdas = task.codec.lambdas
    balance = (lambdas[0] * lambdas[3]) ** 0.25 / lambdas[ANCHOR] ** 0.5
    with torch.no_grad():
        output = task.codec(clip.frames, task.anchor_q(ANCHOR), LowDelay(1))
    bpp = torch.stack(list(output.bits.values())).sum(dim=0) / (64 * 64)
    error = (output.x_hat - clip.frames).square().sum(dim=2).mean(dim=(2, 3))
    trained = [plan for plan in task.plans(9, 1) if plan.frame_type is task.trained]
    losses = [bpp[0, plan.poc] + task.weight_of(plan) * lambdas[ANCHOR] * error[0, plan.poc] for plan in trained]
    return float(balance * torch.stack(losses).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("task", "variant"), [(BiECVCTask, "biecvc-tiny"), (LSTECTask, "lstec-tiny")])
def test_clip_learned_by_heart_beats_its_start_and_intra_coding(task, variant, clip):
    torch.manual_seed(0)
    row = stage(num_frames=9, steps=STEPS, warmup_steps=20)
    trained = attached(task(variant, intra="biecvc-tiny", stages=[row]))
    # one clip at one anchor: the share of the last of four processes
    trained.trainer.global_rank, trained.trainer.world_size = ANCHOR, 4
    optimizer, losses = trained.configure_optimizers(), []
    for step in range(STEPS):
        trained.trainer.global_step = step
        for group in optimizer.param_groups:
            group["lr"] = row.learning_rate_at(step) * group["share"]
        optimizer.zero_grad()
        values = trained.backpropagate(clip).means(trained.trainer.strategy.reduce)
        trained.on_before_optimizer_step(optimizer)
        optimizer.step()
        losses.append(float(values["loss"]))
    trained.trainer.global_step = 0
    start, end = sum(losses[:10]) / 10, sum(losses[-4:]) / 4  # four steps hold every place of the weights' cycle
    print(f"{variant}: {start:.3f} -> {end:.3f}, intra {intra_loss(trained, clip):.3f}")
    assert end < 0.7 * start
    assert end < intra_loss(trained, clip)
