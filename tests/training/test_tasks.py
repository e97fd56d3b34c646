"""What the tasks fix for their papers: layers, weights, auxiliary errors, fresh starts, other codecs."""

import pytest
import torch

from lvc_zoo.models import create_model
from lvc_zoo.training.losses import squared_error
from lvc_zoo.training.starting_point import start_transform
from lvc_zoo.training.tasks import BiECVCTask, DCVCDCTask, DCVCTCMTask, IntraTask, LSTECTask
from tests.training.by_hand import SMALL, attached, batch, stage

DC = {"features": (8, 8, 8), "current": (8, 8, 8), "latent": 8, "hyper": 4, "motion": 8, "align_groups": 2}
DC |= {"unet_widths": (4, 4, 4), "unet_depth": 1, "spynet_widths": (4, 4, 4, 4)}
INTRA = {"widths": (8, 8, 8), "latent": 8, "hyper": 4, "refine_widths": (4, 4, 4), "refine_depth": 1}
DC |= {f"intra.{key}": value for key, value in INTRA.items()}
TCM = {"channels": 4, "latent": 4, "motion": 4, "intra.channels": 4, "spynet_widths": (4, 4, 4, 4)}


def test_plans_of_short_clip_take_layers_of_a_long_gop():
    task = BiECVCTask("biecvc-tiny", overrides=SMALL, stages=[stage()])
    neighbours = {plan.poc: plan.layer for plan in task.plans(5, stride=1)}
    assert neighbours == {0: 0, 4: 0, 2: 4, 1: 5, 3: 5}
    assert [plan.layer for plan in task.plans(3, stride=16)] == [0, 0, 1]
    assert [task.weight_of(plan) for plan in task.plans(5, stride=8)[2:]] == [1.4, 1.4, 1.4]
    assert [task.weight_of(plan) for plan in task.plans(5, stride=1)[2:]] == [0.5, 0.5, 0.5]


def test_lstec_clip_meets_every_place_of_the_weights_cycle():
    task = attached(LSTECTask("lstec-tiny", overrides=SMALL, stages=[stage()]))
    weights, adaptors = [], set()
    for step in range(4):
        task.trainer.global_step = step
        plans = task.plans(5, stride=1)
        assert [plan.poc for plan in plans] == list(range(5))
        weights.append([task.weight_of(plan) for plan in plans[1:]])
        adaptors |= {(0, 1, 0, 2)[plan.position % 4] for plan in plans[2:]}
    assert weights[0] == [0.5, 1.2, 0.5, 0.9]
    assert all(sorted(w) == sorted(weights[0]) for w in weights)
    assert len({w[0] for w in weights}) == 3
    assert adaptors == {0, 1, 2}


def test_frame_weights_of_the_recipe_replace_the_papers():
    task = LSTECTask("lstec-tiny", overrides=SMALL, stages=[stage()], frame_weights=(1.0, 2.0))
    assert [task.weight_of(plan) for plan in task.plans(5, stride=1)[1:]] == [1.0, 2.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("task", "variant", "overrides", "num_frames", "size"),
    [
        (IntraTask, None, INTRA, 1, 32),
        (IntraTask, "dcvc-tcm-intra", {"channels": 4}, 2, 64),
        (IntraTask, "dcvc-tcm", TCM, 1, 64),
        (DCVCDCTask, None, DC, 2, 32),
        (DCVCTCMTask, None, TCM, 2, 64),
    ],
)
def test_every_codec_takes_a_step_that_changes_its_trained_network_alone(task, variant, overrides, num_frames, size):
    torch.manual_seed(0)
    trained = attached(task(variant, overrides=overrides, stages=[stage(num_frames=num_frames)]))
    before = {name: value.clone() for name, value in trained.codec.named_parameters()}
    optimizer = trained.configure_optimizers()
    trained.backpropagate(batch(num_frames, size))
    optimizer.step()
    changed = {name.split(".")[0] for name, value in trained.codec.named_parameters() if not value.equal(before[name])}
    assert changed == {"intra" if task is IntraTask else "inter"}


def test_ms_ssim_loss_takes_the_second_set_of_weights():
    torch.manual_seed(0)
    trained = attached(IntraTask(overrides=INTRA, stages=[stage(num_frames=1)], distortion="ms-ssim"))
    values = trained.backpropagate(batch(1, size=192)).means(trained.trainer.strategy.reduce)
    lambdas = torch.tensor([7.68, 15.36, 30.72, 61.44])
    balance = (lambdas[0] * lambdas[3]) ** 0.25 / lambdas.sqrt()
    bpp = torch.stack([values[f"bpp_{anchor}"] for anchor in range(4)])
    rate, most = (balance * bpp).mean(), (balance * lambdas).mean()
    assert float(rate) < float(values["loss"]) < float(rate + most)


def test_warp_weight_adds_the_error_of_decoded_and_estimated_flows():
    losses = []
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        task = attached(BiECVCTask("biecvc-tiny", overrides=SMALL, stages=[stage(num_frames=3, warp_weight=weight)]))
        seen = {}
        loss_of = task.frame_loss

        def keep(frame, work, tally, seen=seen, loss_of=loss_of):
            seen |= {"flows": frame.motion, "estimated": list(work.seen["motion.estimator"]), "work": work}
            return loss_of(frame, work, tally)

        task.frame_loss = keep
        losses.append(task.backpropagate(batch(3)).means(task.trainer.strategy.reduce)["loss"])
    clip, work = seen["work"].clip, seen["work"]
    from lvc_zoo.blocks.motion import warp

    sides = (clip[:, 0], clip[:, 2])
    errors = [
        squared_error(warp(side, flow), clip[:, 1])
        for flows in (seen["flows"], seen["estimated"])
        for side, flow in zip(sides, flows, strict=True)
    ]
    weight = task.weight_of(task.plans(3, 1)[2])
    expected = (work.balance * weight * work.weight * 0.5 * torch.stack(errors).mean(dim=0)).mean()
    torch.testing.assert_close(losses[1] - losses[0], expected.detach(), rtol=1e-4, atol=1e-5)


def test_shortcut_keeps_leading_components_of_training_blocks():
    torch.manual_seed(0)
    network, basis = create_model("biecvc-tiny").intra, torch.linalg.qr(torch.randn(768, 8))[0]
    blocks = torch.randn(4000, 8) * torch.arange(8, 0, -1) @ basis.T
    start_transform(network, blocks)
    kept = network.transform.analysis_weight[:8]
    # the span of the first eight rows is that of the data
    torch.testing.assert_close(kept @ basis @ basis.T, kept, atol=1e-3, rtol=0)
    torch.testing.assert_close(
        network.latent_scale.log_deviation.exp().flatten()[:3], torch.tensor([8.0, 7.0, 6.0]), rtol=0.1, atol=0
    )
