"""Whole runs: killed and resumed, and on two processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lvc_zoo.training.tasks import BiECVCTask
from tests.training.by_hand import SMALL, attached, batch, gradients, stage
from tests.training.shrunk_run import STAGES, losses, run

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own, about workers and missing loggers


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Folder and moving average of a run of one process."""
    folder, threads = tmp_path_factory.mktemp("unbroken"), torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder, run(folder)
    torch.set_num_threads(threads)


def start(folder, *arguments):
    command = [sys.executable, "-m", "tests.training.shrunk_run", str(folder), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


def test_run_killed_and_resumed_equals_an_unbroken_one(unbroken, tmp_path):
    folder, average = unbroken
    assert start(tmp_path, 5, 1, 4).returncode == -signal.SIGKILL
    assert list(losses(tmp_path)) == [1, 2, 3, 4, 5]
    resumed = run(tmp_path, resume=True)
    # step 5 was done again, from the checkpoint of step 4, on the border of two stages
    assert losses(tmp_path) == losses(folder)
    assert len(losses(folder)) == sum(row.steps for row in STAGES)
    weights = [torch.load(place / "weights.pt") for place in (folder, tmp_path)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    states = [a.average.module.state_dict() for a in (average, resumed)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(unbroken, tmp_path):
    process = start(tmp_path, 0, 2, 2)
    assert process.returncode == 0, process.stderr
    expected, found = losses(unbroken[0]), losses(tmp_path)
    assert found.keys() == expected.keys()
    assert [found[step] for step in expected] == pytest.approx(list(expected.values()), abs=1e-5)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["last.ckpt", "run.ckpt"]


def test_halves_of_a_batch_average_to_its_loss_and_gradients():
    clip = batch(3, samples=8)

    def trained(rank, world):
        torch.manual_seed(0)
        row = stage(num_frames=3, backpropagation="detached")
        task = attached(BiECVCTask("biecvc-tiny", overrides=SMALL, stages=[row]))
        task.trainer.global_rank, task.trainer.world_size = rank, world
        return task

    whole = trained(0, 1)
    values = whole.backpropagate(clip).means(whole.trainer.strategy.reduce)
    halves = [trained(rank, 2) for rank in (0, 1)]
    tables = []
    for rank, task in enumerate(halves):
        share = slice(4 * rank, 4 * rank + 4)
        tally = task.backpropagate(type(clip)(clip.frames[share], clip.stride[share]))
        tally.means(lambda table, **_: tables.append(table) or table)
    together = tally.means(lambda table, **_: sum(tables))
    for name, value in values.items():
        torch.testing.assert_close(together[name], value, rtol=1e-5, atol=1e-6)

    # what each process sends to be averaged, and what it takes back
    sent = []
    halves[0].trainer.strategy.reduce = lambda flat, **_: sent.append(flat) or flat
    halves[1].trainer.strategy.reduce = lambda flat, **_: (sent[0] + flat) / 2
    for task in halves:
        task._average_gradients()
    found, expected = gradients(halves[1]), gradients(whole)
    assert found.keys() == expected.keys()
    # the bias of a key moves nothing behind a softmax over positions: its gradient is nothing but rounding
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        atol = 1e-5 * float(value.abs().max()) + 1e-7 * largest
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=atol)
