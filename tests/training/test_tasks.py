"""Training runs of two steps: the recipes parse and run, and what they leave loads and codes."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lvc_zoo import LSTEC, BiECVC
from lvc_zoo.cli import main
from lvc_zoo.color import ColorSpec
from lvc_zoo.data import open_writer
from lvc_zoo.data.datasets import TrainingClip
from lvc_zoo.models import create_model
from lvc_zoo.training.flow import FlowTask
from lvc_zoo.training.tasks import BiECVCTask, IntraTask, LSTECTask
from tests.miniature import moving_clip

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "train"
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own, about workers and missing loggers


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("footage")
    spec = ColorSpec(matrix="bt601", full_range=False, bit_depth=8, chroma="444")
    with open_writer(folder / "clip.mkv", width=80, height=64, frame_rate=Fraction(25), color=spec) as writer:
        for frame in moving_clip(9, 64, 80):
            writer.write(frame)
    return folder


@pytest.fixture(scope="module")
def trained(footage, tmp_path_factory):
    """Folders of an intra run and of a B-frame run on top of it."""
    runs = tmp_path_factory.mktemp("runs")
    common = [f"--data.folders=[{footage}]", f"--data.cache={runs}/cache", "--data.steps=2", "--data.crop=64"]
    common += ["--data.batch_size=4", "--data.strides=[1]", "--trainer.max_steps=2", "--trainer.callbacks=null"]
    common += [
        "--trainer.precision=32-true",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_checkpointing=false",
    ]
    common += [f"--trainer.default_root_dir={runs}", "--trainer.callbacks+=lvc_zoo.training.callbacks.ExportCodec"]
    intra, inter = runs / "intra", runs / "inter"
    recipe = str(RECIPES / "biecvc-tiny_intra.yaml")
    assert main(["fit", "--config", recipe, *common, f"--trainer.callbacks.folder={intra}"]) == 0
    recipe = str(RECIPES / "biecvc-tiny_1_triplets.yaml")
    weights = f"--model.init_args.weights={intra}"
    assert main(["fit", "--config", recipe, *common, weights, f"--trainer.callbacks.folder={inter}"]) == 0
    return intra, inter


def test_fit_exports_weights_that_code(trained):
    codec, clip = BiECVC.from_pretrained(trained[1]), moving_clip(3, 32, 48)
    assert codec.decompress(codec.compress(clip, 20)).shape == clip.shape
    assert codec.metadata["training"]["steps"] == 2


def test_fit_changes_only_the_trained_network(trained):
    intra, inter = (BiECVC.from_pretrained(path).state_dict() for path in trained)
    changed = {name.split(".")[0] for name, value in inter.items() if not torch.equal(value, intra[name])}
    assert changed == {"inter"}


def test_fit_of_p_frames_takes_over_the_intra_network(footage, trained, tmp_path):
    recipe, out = str(RECIPES / "lstec-tiny_1_pairs.yaml"), tmp_path / "lstec"
    options = [f"--data.folders=[{footage}]", f"--data.cache={tmp_path}/cache", "--data.steps=2", "--data.crop=64"]
    options += [
        "--data.strides=[1]",
        "--trainer.max_steps=2",
        "--trainer.precision=32-true",
        "--trainer.callbacks=null",
    ]
    options += ["--trainer.enable_progress_bar=false", "--trainer.enable_checkpointing=false"]
    options += [f"--trainer.default_root_dir={tmp_path}", "--trainer.callbacks+=lvc_zoo.training.callbacks.ExportCodec"]
    options += [f"--trainer.callbacks.folder={out}", f"--model.init_args.intra={trained[0]}"]
    assert main(["fit", "--config", recipe, *options]) == 0
    codec, clip = LSTEC.from_pretrained(out), moving_clip(4, 32, 48)
    assert codec.decompress(codec.compress(clip, 20)).shape == clip.shape
    source = BiECVC.from_pretrained(trained[0]).intra.state_dict()
    assert all(torch.equal(value, source[name]) for name, value in codec.intra.state_dict().items())


def test_plans_of_short_clip_take_layers_of_a_long_gop():
    task = BiECVCTask(variant="biecvc-tiny")
    neighbours = {plan.poc: plan.layer for plan in task.plans(5, stride=1)}
    assert neighbours == {0: 0, 4: 0, 2: 4, 1: 5, 3: 5}
    assert [plan.layer for plan in task.plans(3, stride=16)] == [0, 0, 1]


def test_lstec_clip_meets_every_place_of_the_weights_cycle():
    task = LSTECTask(variant="lstec-tiny")
    weights, adaptors = [], set()
    for step in range(4):
        task.trainer = SimpleNamespace(global_step=step)
        plans = task.plans(5, stride=1)
        assert [plan.poc for plan in plans] == list(range(5))
        weights.append([task.weight_of(plan) for plan in plans[1:]])
        adaptors |= {(0, 1, 0, 2)[plan.position % 4] for plan in plans[2:]}
    assert weights[0] == [0.5, 1.2, 0.5, 0.9]
    assert all(sorted(w) == sorted(weights[0]) for w in weights)
    assert len({w[0] for w in weights}) == 3
    assert adaptors == {0, 1, 2}


def test_batch_that_cannot_hold_every_anchor_raises():
    task = IntraTask(variant="biecvc-tiny")
    batch = TrainingClip(torch.zeros(3, 1, 3, 64, 64), torch.ones(3))
    with pytest.raises(ValueError, match="anchors equally often"):
        task.training_step(batch, 0)


def test_shortcut_keeps_leading_components_of_training_blocks():
    from lvc_zoo.training.starting_point import start_transform

    network, basis = create_model("biecvc-tiny").intra, torch.linalg.qr(torch.randn(768, 8))[0]
    blocks = torch.randn(4000, 8) * torch.arange(8, 0, -1) @ basis.T
    start_transform(network, blocks)
    kept = network.transform.analysis_weight[:8]
    # the span of the first eight rows is that of the data
    torch.testing.assert_close(kept @ basis @ basis.T, kept, atol=1e-3, rtol=0)
    torch.testing.assert_close(
        network.latent_scale.log_deviation.exp().flatten()[:3], torch.tensor([8.0, 7.0, 6.0]), rtol=0.1, atol=0
    )


def test_flow_task_learns_a_shift_and_trains_the_estimator_alone():
    torch.manual_seed(0)
    picture = moving_clip(1, 64, 68)[0]
    pair = torch.stack([picture[..., :64], picture[..., 4:]])  # the second frame is the first, shifted by 4 to the left
    task = FlowTask(variant="biecvc-tiny")
    task.trainer, task.log = SimpleNamespace(), lambda *_, **__: None
    optimizer = torch.optim.Adam(task.estimator.parameters(), 1e-3)
    losses = []
    for _ in range(60):
        loss = task.training_step(TrainingClip(pair.expand(2, -1, -1, -1, -1), torch.ones(2)), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    reached = {name for name, p in task.codec.named_parameters() if p.grad is not None}
    assert all(name.startswith("inter.motion.estimator.") for name in reached)
    assert losses[-1] < 0.75 * losses[0]
