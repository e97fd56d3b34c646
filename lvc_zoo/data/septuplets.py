"""The septuplets of Vimeo-90K (Xue et al., Video Enhancement with Task-Oriented Flow, arXiv 1711.09078)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .cache import is_excluded
from .footage import Footage, Window
from .readers import read_picture

TRAINING_LIST = "sep_trainlist.txt"
TEST_LIST = "sep_testlist.txt"
NUM_FRAMES, HEIGHT, WIDTH = 7, 256, 448
LAYOUT = (
    "expected the septuplet archive (82 GB, from toflow.csail.mit.edu), unpacked: sequences/00001/0001/im1.png "
    f"to im7.png, ..., {TRAINING_LIST} and {TEST_LIST}"
)


@dataclass(frozen=True, slots=True)
class Septuplet(Footage):
    """Seven PNG pictures of 448x256, read when asked for: decoded, the whole set would take 150 GB.

    Attributes:
        folder: that holds them.
    """

    folder: Path = Path()

    def read(self, times: range, window: Window, random: np.random.Generator) -> np.ndarray:
        """See `Footage`."""
        return np.stack([self._picture(time)[window.area] for time in times])

    def _picture(self, time: int) -> np.ndarray:
        path = self.folder / f"im{time + 1}.png"
        picture = read_picture(path).numpy()
        if picture.shape != (self.height, self.width, 3):
            raise ValueError(f"{path} is {picture.shape[1]}x{picture.shape[0]}, expected {self.width}x{self.height}")
        return picture


def is_septuplets(folder: str | Path) -> bool:
    """Whether a folder is laid out as Vimeo-90K's septuplets."""
    return (Path(folder) / TRAINING_LIST).exists()


def list_septuplets(folder: str | Path, exclude: Sequence[str] = (), names: str = TRAINING_LIST) -> list[Footage]:
    """The septuplets of a list.

    Args:
        folder: of the unpacked archive.
        exclude: glob patterns of names such as "00001/0266" to leave out.
        names: of the list's file.

    Raises:
        FileNotFoundError: where the list, or the first septuplet on it, is missing.
    """
    folder = Path(folder)
    if not (folder / names).exists():
        raise FileNotFoundError(f"{folder / names} is missing; {LAYOUT}")
    listed = (folder / names).read_text().split()
    first = folder / "sequences" / (listed or ["00001/0001"])[0] / "im1.png"
    if not first.exists():
        raise FileNotFoundError(f"{first} is missing; {LAYOUT}")
    kept = (name for name in listed if not is_excluded(name, exclude))
    return [Septuplet(name, NUM_FRAMES, HEIGHT, WIDTH, (), folder / "sequences" / name) for name in kept]
