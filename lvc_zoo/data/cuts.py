"""Shot cuts, found once from small pictures of the frames."""

import numpy as np
import torch.nn.functional as F
from torch import Tensor

THUMBNAIL = (18, 32)
LEAST_CHANGE = 0.05
OVER_NEIGHBOURS = 3.0
REACH = 3


def thumbnail(frame: Tensor) -> np.ndarray:
    """Area means of a frame `(3, H, W)` in [0, 1]: float32 `(3, 18, 32)`."""
    return F.interpolate(frame[None].float(), size=THUMBNAIL, mode="area")[0].numpy()


def find_cuts(thumbnails: np.ndarray) -> list[int]:
    """Indices of the frames that open a new shot.

    A cut is a change between two thumbnails that is large and stands far above the changes around it: a pan or a shaken
    camera is large throughout, a fade is small throughout.

    Args:
        thumbnails: `(T, 3, h, w)` in [0, 1].
    """
    change = np.abs(np.diff(thumbnails, axis=0)).mean(axis=(1, 2, 3))
    cuts = []
    for i, value in enumerate(change):
        around = np.concatenate([change[max(i - REACH, 0) : i], change[i + 1 : i + 1 + REACH]])
        usual = float(np.median(around)) if len(around) else 0.0
        if value > LEAST_CHANGE and value > OVER_NEIGHBOURS * usual:
            cuts.append(i + 1)
    return cuts
