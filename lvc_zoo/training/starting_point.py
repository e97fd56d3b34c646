"""Data-dependent start of the linear shortcut."""

from collections.abc import Callable

import lightning as L
import torch
from einops import rearrange
from torch import Tensor, nn


def measure_blocks(
    trainer: L.Trainer, picture_of: Callable[[Tensor], Tensor], size: int = 16, batches: int = 40
) -> Tensor:
    """Blocks of the first training batches, those of all processes together.

    Args:
        trainer: with its datamodule attached.
        picture_of: from a clip `(B, T, 3, H, W)` to pictures `(N, 3, H, W)`.
        size: block side.
        batches: number of batches looked at.

    Returns:
        `(number of blocks, 3 * size ** 2)`.
    """
    loader = trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
    blocks = []
    for _, clip in zip(range(batches), loader, strict=False):
        pictures = picture_of(clip.frames)
        blocks.append(rearrange(pictures, "n c (y i) (x j) -> (n y x) (c i j)", i=size, j=size))
    own = torch.cat(blocks)
    if trainer.world_size == 1:
        return own
    gathered: Tensor = trainer.strategy.all_gather(own.to(trainer.strategy.root_device))
    return gathered.flatten(0, 1).to(own.device)


@torch.no_grad()
def start_transform(network: nn.Module, blocks: Tensor) -> None:
    """Set a network's block transform to the principal components of `blocks`, and its latent scale to their spread."""
    centred = (blocks - blocks.mean(dim=0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    transform = network.get_submodule("transform")
    channels = transform.get_parameter("analysis_weight").shape[0]
    basis = vectors.flip(1)[:, :channels].T.float()
    transform.get_parameter("analysis_weight").copy_(basis)
    transform.get_parameter("synthesis_weight").copy_(basis)
    network.get_submodule("latent_scale").start_from(values.flip(0)[:channels].clamp(min=0).sqrt().float())  # type: ignore[operator]
