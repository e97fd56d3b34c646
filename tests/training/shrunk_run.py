"""A shrunk run of six steps in two stages, with moving average and checkpoints.

As a program: `python -m tests.training.shrunk_run FOLDER KILL_AFTER DEVICES SAMPLES`.
"""

import json
import os
import signal
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lvc_zoo.training.callbacks import WeightAverage
from lvc_zoo.training.tasks import LSTECTask
from tests.training.by_hand import SMALL, MovingClips, stage

STAGES = [
    stage(name="short", steps=4, num_frames=2, warmup_steps=2),
    stage(name="long", steps=6, num_frames=3, backpropagation="chunked", chunk=1, trained="all-but-motion"),
]


class Record(L.Callback):
    """Writes each step's loss to a file; where told, kills the process without warning."""

    def __init__(self, path: Path, kill_after: int):
        self.path, self.kill_after = path, kill_after

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.is_global_zero:
            with self.path.open("a") as file:
                file.write(json.dumps([trainer.global_step, float(trainer.callback_metrics["train/loss"])]) + "\n")
        if trainer.global_step == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)


def run(
    folder: Path, *, kill_after: int = 0, devices: int = 1, samples: int = 4, resume: bool = False
) -> WeightAverage:
    """Train; losses lie in `folder/losses.jsonl`, the checkpoint of every second step in `folder/last.ckpt`."""
    torch.manual_seed(0)
    average = WeightAverage(0.9)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        use_distributed_sampler=False,
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
        callbacks=[
            average,
            ModelCheckpoint(folder, filename="run", every_n_train_steps=2, save_last=True),
            Record(folder / "losses.jsonl", kill_after),
        ],
    )
    task = LSTECTask("lstec-tiny", overrides=SMALL, stages=STAGES, fresh=True)
    trainer.fit(task, datamodule=MovingClips(samples), ckpt_path=str(folder / "last.ckpt") if resume else None)
    torch.save(task.network.state_dict(), folder / "weights.pt")
    return average


def losses(folder: Path) -> dict[int, float]:
    """Loss after each step; a step done twice must have the same one."""
    found: dict[int, float] = {}
    for line in (folder / "losses.jsonl").read_text().splitlines():
        step, loss = json.loads(line)
        assert found.get(step, loss) == loss, f"step {step} gave {found[step]}, then {loss}"
        found[step] = loss
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, kill, processes, share = sys.argv[1:]
    run(Path(place), kill_after=int(kill), devices=int(processes), samples=int(share))
