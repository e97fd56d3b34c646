"""Each run trains the miniature's intra network for a few steps on made frames."""

import math
from io import StringIO

import lightning as L
import pytest
import rich
import torch
from PIL import Image

from lvc_zoo import BiECVC
from lvc_zoo.config import to_dict
from lvc_zoo.training.bench import TextureClips
from lvc_zoo.training.callbacks import (
    ExportCodec,
    NaNGuard,
    RunCheckpoint,
    StageProgress,
    TrainingCurve,
    WeightAverage,
    first_bad_module,
    read_curve,
)
from lvc_zoo.training.stages import Stage
from lvc_zoo.training.tasks import IntraTask
from tests.miniature import CONFIG, moving_clip

# Lightning's own
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning",
    "ignore:.*does not have many workers",
    "ignore:.*your dataloader is not resumable",
    "ignore:Total length of `list`",
    "ignore:Using ModelCheckpoint with manual optimization",
)
BIAS = "analysis1.0.conv1.bias"
STAGES = [Stage(name="all", steps=4, num_frames=1, learning_rate=1e-3)]


@pytest.fixture
def task():
    torch.manual_seed(0)
    return IntraTask(variant="biecvc", overrides=to_dict(CONFIG), stages=STAGES)


class Recorder(L.Callback):
    """Weights after each step, and the logged loss."""

    def __init__(self):
        self.weights, self.losses = [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.weights.append([p.detach().clone() for p in pl_module.network.parameters()])
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def fit(task, *callbacks, **options):
    """A run of at most four steps."""
    path = options.pop("ckpt_path", None)
    options = {"logger": False, "enable_checkpointing": False, "max_steps": 4, "enable_progress_bar": False, **options}
    trainer = L.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_model_summary=False,
        use_distributed_sampler=False,
        max_epochs=-1,
        **options,
    )
    trainer.fit(task, datamodule=TextureClips(["made"], batch_size=4, crop=64), ckpt_path=path)
    return trainer


def equal(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# ---- the weight average and the export


def test_weight_average_follows_its_recursion(task):
    average, recorder = WeightAverage(decay=0.5), Recorder()
    fit(task, average, recorder)
    expected = recorder.weights[0]
    for step, weights in enumerate(recorder.weights[1:], start=2):
        keep = min(0.5, 1 - step ** (-2 / 3))  # the first steps forget faster
        expected = [keep * a + (1 - keep) * w for a, w in zip(expected, weights, strict=True)]
    for ours, theirs in zip(average.average.module.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_validation_sees_the_average_and_leaves_the_weights_bit_for_bit(task):
    average, recorder = WeightAverage(decay=0.9), Recorder()
    trainer = fit(task, average, recorder)
    average.on_validation_start(trainer, task)
    assert equal(task.network.parameters(), average.average.module.parameters())
    average.on_validation_end(trainer, task)
    assert equal(task.network.parameters(), recorder.weights[-1])
    assert not equal(average.average.module.parameters(), recorder.weights[-1])


def test_resumed_average_equals_an_unbroken_one(task, tmp_path):
    def fresh():
        torch.manual_seed(0)
        return IntraTask(variant="biecvc", overrides=to_dict(CONFIG), stages=STAGES)

    whole, first, second = WeightAverage(0.9), WeightAverage(0.9), WeightAverage(0.9)
    fit(fresh(), whole)
    fit(fresh(), first, max_steps=2).save_checkpoint(tmp_path / "two.ckpt")
    fit(task, second, ckpt_path=tmp_path / "two.ckpt")
    assert equal(whole.average.module.parameters(), second.average.module.parameters())
    assert not equal(whole.average.module.parameters(), first.average.module.parameters())


def test_average_of_a_checkpoint_is_tested_without_a_fit(task):
    stored = {name: value + 1 for name, value in task.network.state_dict().items()}
    average, before = WeightAverage(), [p.clone() for p in task.network.parameters()]
    average.load_state_dict({"average": stored})
    average.on_test_start(None, task)
    assert equal(task.network.parameters(), [p + 1 for p in before])
    average.on_test_end(None, task)
    assert equal(task.network.parameters(), before)


def test_export_holds_the_average_and_codes(task, tmp_path):
    average, recorder = WeightAverage(decay=0.9), Recorder()
    fit(task, average, recorder, ExportCodec(str(tmp_path / "weights")))
    assert equal(task.network.parameters(), recorder.weights[-1])
    codec, clip = BiECVC.from_pretrained(tmp_path / "weights"), moving_clip(3, 32, 48)
    assert equal(codec.intra.parameters(), average.average.module.parameters())
    assert codec.metadata["training"][-1]["steps"] == 4
    assert codec.decompress(codec.compress(clip, 20)).shape == clip.shape


def test_export_tells_every_run_and_shows_the_last_curve(task, tmp_path):
    fit(task, ExportCodec(str(tmp_path / "first")), max_steps=1)
    further = IntraTask(weights=str(tmp_path / "first"), stages=STAGES)
    fit(further, ExportCodec(str(tmp_path / "second")), TrainingCurve(str(tmp_path)), WeightAverage(0.9), max_steps=2)
    first, second = BiECVC.from_pretrained(tmp_path / "second").metadata["training"]
    assert (first["steps"], first["average"], first["weights"]) == (1, [], None)
    assert (second["steps"], second["average"], second["weights"]) == (2, [0.9], str(tmp_path / "first"))
    assert second["data"]["crop"] == 64
    assert second["stages"][0]["name"] == "all"
    assert (tmp_path / "second" / "curve.png").read_bytes() == (tmp_path / "curve.png").read_bytes()
    assert "![curve](curve.png)" in (tmp_path / "second" / "README.md").read_text()


def test_time_of_a_resumed_run_is_counted_from_its_start():
    export = ExportCodec("weights")
    export.load_state_dict({"seconds": 100.0})
    export.on_train_start(None, None)
    assert 100 <= export.state_dict()["seconds"] < 101


def test_decay_of_one_raises():
    with pytest.raises(ValueError, match="expected 0 <= decay < 1"):
        WeightAverage(decay=1.0)


# ---- steps that are not finite


def spoil(module, task, at, value=math.nan):
    """Make a module's output bad at one step."""
    module.register_forward_hook(lambda _m, _i, output: output * (value if task.global_step == at else 1))


def test_guard_drops_a_bad_step_and_names_the_module(task):
    guard, recorder, moments = NaNGuard(), Recorder(), []
    spoil(task.network.get_submodule("analysis1.0"), task, at=2)

    class Moments(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            moments.append([s["exp_avg"].clone() for s in trainer.optimizers[0].state.values()])

    with pytest.warns(UserWarning, match=r"step 2 is skipped.*the output of intra\.analysis1\.0"):
        trainer = fit(task, guard, recorder, Moments())
    assert guard.skipped == 1
    assert float(trainer.callback_metrics["train/skipped_steps"]) == 1
    assert equal(recorder.weights[1], recorder.weights[2])
    assert equal(moments[1], moments[2])
    assert not equal(recorder.weights[2], recorder.weights[3])
    assert math.isfinite(recorder.losses[-1])


def test_guard_gives_up_after_bad_steps_in_a_row(task):
    task.network.get_submodule("analysis1.0").register_forward_hook(lambda _m, _i, output: output * math.inf)
    with (
        pytest.warns(UserWarning, match="step 0 is skipped"),
        pytest.raises(RuntimeError, match=r"step 1 .*last 2 steps; go on from an earlier checkpoint"),
    ):
        fit(task, NaNGuard(give_up_after=2))


class Culprit(L.Callback):
    """What is said of the first batch."""

    def on_train_batch_start(self, trainer, pl_module, batch, *_):
        self.found = first_bad_module(pl_module, batch)
        pl_module.zero_grad()


def test_sound_step_has_no_bad_module(task):
    culprit = Culprit()
    fit(task, culprit, max_steps=1)
    assert culprit.found.startswith("no module's output or gradient is")


def test_bad_weights_are_named_before_what_they_spoil(task):
    culprit, bias = Culprit(), task.network.get_parameter(BIAS)
    with torch.no_grad():
        bias.fill_(math.nan)
    with pytest.warns(UserWarning, match="step 0 is skipped"):
        fit(task, culprit, NaNGuard(), max_steps=1)
    assert culprit.found == f"the weights intra.{BIAS} hold such values"


def test_gradient_that_goes_bad_on_its_way_back_is_named(task):
    culprit, bias = Culprit(), task.network.get_parameter(BIAS)
    bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.warns(UserWarning, match="step 0 is skipped"):
        fit(task, culprit, NaNGuard(), max_steps=1)
    assert culprit.found == f"the gradient of intra.{BIAS}"


class Norms(L.Callback):
    """The gradient's norm before clipping, by hand, and as logged."""

    def __init__(self):
        self.measured, self.logged = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        squares = [p.grad.double().square().sum() for p in pl_module.parameters() if p.grad is not None]
        self.measured.append(float(sum(squares)) ** 0.5)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.logged.append(float(trainer.callback_metrics["train/gradient_norm"]))


def test_norm_of_the_gradient_is_logged_before_clipping(task):
    task.gradient_clip_val = 1e-3
    norms = Norms()
    fit(task, NaNGuard(), norms)
    assert norms.logged == pytest.approx(norms.measured, rel=1e-4)
    assert min(norms.logged) > 1e-3


def test_last_checkpoint_is_that_of_the_end(task, tmp_path):
    checkpoint = RunCheckpoint(tmp_path, every_n_train_steps=3, save_last=True)
    fit(task, checkpoint, enable_checkpointing=True)
    stored = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert stored["global_step"] == 4
    name = f"codec.intra.{BIAS}"
    assert torch.equal(stored["state_dict"][name], task.state_dict()[name])


# ---- the curve


def test_curve_holds_every_logged_loss_and_is_drawn(task, tmp_path):
    recorder = Recorder()
    fit(task, recorder, TrainingCurve(str(tmp_path), every_n_steps=1))
    rows = read_curve(tmp_path / "curve.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["train/loss"] for row in rows] == pytest.approx(recorder.losses)
    assert {"train/bpp_0", "train/psnr_db_3", "train/bpp_hyper"} <= set(rows[0])
    with Image.open(tmp_path / "curve.png") as picture:
        assert len(picture.convert("RGB").getcolors(maxcolors=10**6)) > 10


def test_curve_of_a_resumed_run_continues_that_of_its_checkpoint(task, tmp_path):
    def curve(folder):
        return TrainingCurve(str(tmp_path / folder), every_n_steps=1)

    fit(task, curve("run"), max_steps=2).save_checkpoint(tmp_path / "two.ckpt")
    fit(task, curve("run"), max_steps=3, ckpt_path=tmp_path / "two.ckpt")  # goes on, and is lost
    fit(task, curve("run"), ckpt_path=tmp_path / "two.ckpt")
    assert [row["step"] for row in read_curve(tmp_path / "run" / "curve.csv")] == [1, 2, 3, 4]


def test_curve_takes_columns_that_come_late(tmp_path):
    from types import SimpleNamespace

    curve = TrainingCurve(str(tmp_path), every_n_steps=2)
    trainer = SimpleNamespace(is_global_zero=True, global_step=0, callback_metrics={"train/loss": 1.0})
    curve.on_train_start(trainer, None)
    for step in (1, 2, 3, 4):
        trainer.global_step = step
        trainer.callback_metrics |= {"val/bpp_estimated": 0.5} if step > 2 else {}
        curve.on_train_batch_end(trainer, None)
    first, second = read_curve(tmp_path / "curve.csv")
    assert (first["step"], second["step"]) == (2, 4)
    assert math.isnan(first["val/bpp_estimated"])
    assert second["val/bpp_estimated"] == 0.5


def test_curve_survives_a_kill_in_the_middle_of_a_row(task, tmp_path):
    curve = TrainingCurve(str(tmp_path), every_n_steps=1)
    fit(task, curve, max_steps=2).save_checkpoint(tmp_path / "two.ckpt")
    with (tmp_path / "curve.csv").open("a") as file:
        file.write("3,0.1,1e-")
    fit(task, TrainingCurve(str(tmp_path), every_n_steps=1), ckpt_path=tmp_path / "two.ckpt")
    assert [row["step"] for row in read_curve(tmp_path / "curve.csv")] == [1, 2, 3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.csv", "curve.png", "two.ckpt"]


# ---- the bar


@pytest.fixture
def terminal():
    """What a terminal would show; Lightning's bar sets up rich's global console, which is put back."""
    shown = StringIO()
    yield shown
    rich.reconfigure()


def test_bar_of_a_resumed_run_counts_every_step_and_names_the_stage(task, tmp_path, terminal):
    fit(task, max_steps=2).save_checkpoint(tmp_path / "two.ckpt")
    bar = StageProgress(console_kwargs={"file": terminal, "force_terminal": True, "width": 100})
    fit(task, bar, ckpt_path=tmp_path / "two.ckpt", enable_progress_bar=True)
    lines = [line for line in terminal.getvalue().splitlines() if "━" in line]
    assert "4/4" in lines[-1]
    assert "all" in lines[-1]
    assert "/2" not in terminal.getvalue()
