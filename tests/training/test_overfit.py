"""The learning signal reaches every part: one clip, learned by heart from initialisation."""

import json
import os
from itertools import islice
from pathlib import Path

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


@pytest.fixture(scope="module")
def clip():
    """Nine 64x64 frames of a real clip, once for each anchor."""
    reader = open_video(demo_clip(), color=ColorSpec("bt601", assumed=True))
    frames = torch.stack(list(islice(reader, 9)))[..., 100:164, 300:364]
    return TrainingClip(frames.expand(4, -1, -1, -1, -1), torch.ones(4, dtype=torch.int64))


def intra_loss(task, clip):
    """The loss of coding the trained frames intra, under the same weights of frames and anchors."""
    lambdas = torch.tensor(task.codec.lambdas)
    balance = (lambdas[0] * lambdas[3]) ** 0.25 / lambdas.sqrt()
    with torch.no_grad():
        q = torch.tensor([task.anchor_q(anchor) for anchor in range(4)])
        output = task.codec(clip.frames, q, LowDelay(1))
    bpp = torch.stack(list(output.bits.values())).sum(dim=0) / (64 * 64)
    error = (output.x_hat - clip.frames).square().sum(dim=2).mean(dim=(2, 3))
    trained = [plan for plan in task.plans(9, 1) if plan.frame_type is task.trained]
    losses = [balance * (bpp[:, p.poc] + task.weight_of(p) * lambdas * error[:, p.poc]) for p in trained]
    return float(torch.stack(losses).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("task", "variant"), [(BiECVCTask, "biecvc-tiny"), (LSTECTask, "lstec-tiny")])
def test_clip_learned_by_heart_beats_its_start_and_intra_coding(task, variant, clip):
    torch.manual_seed(0)
    row = stage(num_frames=9, steps=STEPS, warmup_steps=20)
    trained = attached(task(variant, intra="biecvc-tiny", stages=[row]))
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
        if log := os.environ.get("LVC_ZOO_OVERFIT_LOG"):
            named = {name: round(float(value), 4) for name, value in values.items()}
            with Path(f"{log}_{variant}.jsonl").open("a") as file:
                file.write(json.dumps({"step": step} | named) + "\n")
    trained.trainer.global_step = 0
    start, end = sum(losses[:10]) / 10, sum(losses[-4:]) / 4  # four steps hold every place of the weights' cycle
    print(f"{variant}: {start:.3f} -> {end:.3f}, intra {intra_loss(trained, clip):.3f}")
    assert end < 0.7 * start
    assert end < intra_loss(trained, clip)
