"""Training steps without a Trainer, and runs with one, shared by the tests of the tasks."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lvc_zoo.data.datasets import TrainingClip
from lvc_zoo.training.stages import Stage
from lvc_zoo.training.tasks import VideoCompressionTask
from tests.miniature import moving_clip

SMALL = {"motion": 8, "latent": 8, "hyper": 4, "features": (8, 8, 8), "current": (8, 8, 8), "prior_width": 16}
SMALL |= {"intra.widths": (8, 8, 8), "intra.latent": 8, "intra.hyper": 4, "intra.prior_width": 16}
SMALL |= {"unet_widths": (8, 8, 8)}
"""Overrides that make the tiny variants of both inter codecs smaller still; every mechanism stays."""


def stage(**changes: object) -> Stage:
    """A row of the table, five frames unless told otherwise."""
    return Stage(**({"name": "test", "steps": 4, "num_frames": 5, "learning_rate": 1e-3} | changes))


def attached(task: VideoCompressionTask, step: int = 0) -> VideoCompressionTask:
    """The task beside a stand-in of the Trainer, at a given step."""
    strategy = SimpleNamespace(reduce=lambda value, **_: value)
    task.trainer = SimpleNamespace(global_step=step, global_rank=0, world_size=1, strategy=strategy)
    task.manual_backward = lambda loss: loss.backward()
    return task


def batch(num_frames: int, size: int = 32, samples: int = 4, first: int = 0) -> TrainingClip:
    """Moving clips, a function of their index."""
    clips = [moving_clip(num_frames, size, size, seed=first + i) for i in range(samples)]
    return TrainingClip(torch.stack(clips), torch.ones(samples, dtype=torch.int64))


def gradients(task: VideoCompressionTask) -> dict[str, Tensor]:
    """Gradients by name of the parameters that got one."""
    return {name: p.grad.clone() for name, p in task.network.named_parameters() if p.grad is not None}


class Batches(IterableDataset):
    """This process's share of each step's batch, from the trainer's step on."""

    def __init__(self, data: "MovingClips"):
        self.data = data

    def __iter__(self) -> Iterator[TrainingClip]:
        data, trainer = self.data, self.data.trainer
        step, total = trainer.global_step, sum(phase.steps for phase in data.phases)
        for i in range(step, total):
            num_frames = next(p.num_frames for k, p in enumerate(data.phases) if i < data.ends[k])
            place = (i * trainer.world_size + trainer.global_rank) * data.samples
            yield batch(num_frames, data.size, data.samples, first=place)


class MovingClips(L.LightningDataModule):
    """Clips made on the fly that follow the stage table; `samples` is a process's share of a batch."""

    def __init__(self, samples: int = 4, size: int = 32):
        super().__init__()
        self.samples, self.size = samples, size
        self.phases: list = []

    def follow(self, phases: list) -> None:
        self.phases = list(phases)
        self.ends = [sum(p.steps for p in phases[: k + 1]) for k in range(len(phases))]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Batches(self), batch_size=None)

    def _whole(self) -> DataLoader:
        clips = [TrainingClip(moving_clip(3, self.size, self.size, seed), torch.tensor(1)) for seed in (100, 101)]
        return DataLoader(clips, batch_size=1)

    val_dataloader = test_dataloader = predict_dataloader = _whole


@contextmanager
def saved_elements() -> Iterator[SimpleNamespace]:
    """Count elements that autograd keeps for the backward pass: `now`, and the largest number so far, `peak`."""
    count = SimpleNamespace(now=0, peak=0)

    class Kept:
        def __init__(self, value: Tensor):
            self.value = value.detach()  # a saved output would hold its own graph
            count.now += value.numel()
            count.peak = max(count.peak, count.now)

        def __del__(self) -> None:
            count.now -= self.value.numel()

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.value):
        yield count
