import json

import pytest

from lvc_zoo.cli import main
from lvc_zoo.training.bench import PARTS, ClipShape, MemoryUse, TrainingReport, TrainingSpeed, measure_training
from tests.training.by_hand import SMALL


def test_training_speed_shares_a_step_among_its_parts(capsys):
    settings = [part for key, value in SMALL.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    assert main(["bench", "biecvc-tiny", "--training", "--json", "--size", "64x64", "--frames", "3", *settings]) == 0
    report = json.loads(capsys.readouterr().out)
    speed = report["speed"]
    assert set(speed["shares"]) == set(PARTS)
    assert sum(speed["shares"].values()) == pytest.approx(1)
    assert speed["frames_per_s"] == pytest.approx(speed["batch_size"] * 3 / speed["step_s"])
    assert len(report["memory"]) == 0


@pytest.mark.slow
def test_checkpointing_takes_less_memory_than_keeping_all():
    shape = ClipShape(num_frames=9, crop=64)
    kept, again = measure_training("biecvc-tiny", shape, {}, speed=False, memory=True).memory
    assert (kept.checkpointing, again.checkpointing) == (False, True)
    assert again.peak_bytes < kept.peak_bytes / 2


def test_training_bench_of_an_oblong_size_exits_with_2(capsys):
    assert main(["bench", "biecvc-tiny", "--training", "--size", "64x48"]) == 2
    assert "training clips are square" in capsys.readouterr().err


def test_memory_of_a_recipe_raises():
    with pytest.raises(ValueError, match="is a recipe"):
        measure_training("a.yaml", ClipShape(), {}, speed=False, memory=True)


def test_training_report_names_what_limits():
    speed = TrainingSpeed(4, 3, 64, 0.5, 24.0, {"data": 0.1, "forward": 0.6, "backward": 0.2, "optimiser": 0.1})
    text, *_ = TrainingReport("x", "CPU", speed, [MemoryUse(True, 1, 1.0, 1.0)]).tables()
    assert "24.00 frames/s" in text
    assert text.endswith("limited by forward")
