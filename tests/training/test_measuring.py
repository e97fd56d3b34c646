"""Validation estimates, tests count bytes, prediction gives streams."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch

from lvc_zoo.metrics import RDCurve
from lvc_zoo.training.tasks import BiECVCTask, IntraTask, LSTECTask
from tests.training.by_hand import SMALL, MovingClips, attached, stage

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own, about workers and missing loggers


@pytest.fixture(scope="module")
def measured():
    """A task that took one step, what validation and test logged, and predicted streams."""
    torch.manual_seed(0)
    curve = RDCurve(name="far away", points=((1.0, 80.0), (2.0, 81.0), (3.0, 82.0), (4.0, 83.0)))
    task = BiECVCTask("biecvc-tiny", overrides=SMALL, stages=[stage(num_frames=3, steps=1)], reference_curve=curve)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", max_epochs=-1, enable_checkpointing=False, num_sanity_val_steps=0, **quiet)
    data = MovingClips()
    trainer.fit(task, datamodule=data)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    task.eval()
    tested = trainer.test(task, datamodule=data, verbose=False)[0]
    streams = [stream for batch in trainer.predict(task, datamodule=data) for clip in batch for stream in clip]
    clips = [clip.frames for clip in data.test_dataloader().dataset]
    return task, logged, tested, streams, clips


def test_test_rate_is_that_of_the_streams(measured):
    _, _, tested, streams, _ = measured
    assert len(streams) == 8
    for anchor in range(4):
        size = sum(len(stream) for stream in streams[anchor::4])
        assert tested[f"test/bpp_{anchor}"] == pytest.approx(8 * size / (2 * 3 * 32 * 32), rel=1e-6)
    parts = [tested[f"test/bpp_{part}"] for part in ("motion", "frame", "hyper", "framing")]
    assert tested["test/bpp_total"] == pytest.approx(sum(parts), rel=1e-5)
    assert all(part > 0 for part in parts)


def test_test_quality_is_that_of_decoded_streams(measured):
    task, _, tested, streams, clips = measured
    decoded = [task.codec.decompress(stream) for stream in streams]
    errors = [(x_hat - clips[i // 4]).square().mean(dim=(1, 2, 3)) for i, x_hat in enumerate(decoded)]
    psnr_db = torch.stack([-10 * error.log10().mean() for error in errors]).mean()
    assert tested["test/psnr_rgb_db"] == pytest.approx(float(psnr_db), rel=1e-5)


def test_validation_names_say_that_rates_are_estimated(measured):
    _, logged, tested, *_ = measured
    rates = {name for name in logged if name.startswith(("val/bpp", "val/loss"))}
    assert rates
    assert all(name.endswith("_estimated") for name in rates)
    assert not any(name.endswith("_estimated") for name in tested)
    assert {f"val/psnr_db_{anchor}" for anchor in range(4)} < set(logged)
    assert "val/psnr_yuv611_db" in logged
    # curves that share no quality have no BD-rate, pictures as small as these no MS-SSIM
    assert not any("bd_rate" in name or "ms_ssim" in name for name in logged)


def test_curves_that_overlap_have_a_bd_rate_and_large_pictures_an_ms_ssim():
    """Against its own points at twice the rate a codec saves half."""
    torch.manual_seed(0)
    stages = [stage(name="one", steps=1, num_frames=1)]
    task = IntraTask("biecvc-tiny", overrides=SMALL, stages=stages)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", enable_checkpointing=False, **quiet)
    data, weights = MovingClips(size=192), task.codec.state_dict()
    first = trainer.validate(task, datamodule=data, verbose=False)[0]
    points = [(2 * first[f"val/bpp_{i}_estimated"], first[f"val/psnr_db_{i}"]) for i in range(4)]
    task = IntraTask(
        "biecvc-tiny", overrides=SMALL, stages=stages, reference_curve=RDCurve(name="twice", points=tuple(points))
    )
    task.codec.load_state_dict(weights)
    again = trainer.validate(task, datamodule=data, verbose=False)[0]
    assert 0 < again["val/ms_ssim"] < 1
    assert again["val/bd_rate_estimated"] == pytest.approx(-50, abs=0.1)


def test_estimated_quality_is_that_of_decoded_streams(measured):
    _, logged, tested, *_ = measured
    assert logged["val/psnr_rgb_db"] == pytest.approx(tested["test/psnr_rgb_db"], abs=1e-3)


@pytest.mark.parametrize(("num_frames", "period"), [(3, 2), (9, 8), (12, 8), (33, 32), (97, 32)])
def test_clip_is_measured_under_the_longest_tree_it_holds(num_frames, period):
    task = BiECVCTask("biecvc-tiny", overrides=SMALL, stages=[stage()])
    assert task.measured_structure(num_frames).intra_period == period


def test_anchor_q_spans_the_rate_points():
    task = LSTECTask("lstec-tiny", overrides=SMALL, stages=[stage()])
    assert [task.anchor_q(anchor) for anchor in range(4)] == [0, 21, 42, 63]
    assert IntraTask("dcvc-tcm-intra", overrides={"channels": 4}).anchor_q(0) == 32


def test_stages_come_back_from_plain_data():
    task = LSTECTask("lstec-tiny", overrides=SMALL, stages=[stage(strides=(1, 2))])
    assert LSTECTask(**task.hparams).stages == task.stages


def test_fp16_is_refused():
    task = attached(LSTECTask("lstec-tiny", overrides=SMALL, stages=[stage()]))
    task.trainer.precision = "16-mixed"
    with pytest.raises(ValueError, match="expected bf16-mixed or 32-true"):
        task.setup("fit")


def test_distributed_sampler_is_refused():
    task = attached(LSTECTask("lstec-tiny", overrides=SMALL, stages=[stage()]))
    task.trainer.precision, task.trainer.world_size = "32-true", 2
    task.trainer._accelerator_connector = SimpleNamespace(use_distributed_sampler=True)
    with pytest.raises(ValueError, match=r"set trainer.use_distributed_sampler to false"):
        task.setup("fit")
