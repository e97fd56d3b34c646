"""Footage in LitData's shards: a few large files instead of many, local or in an object store."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .cache import is_excluded
from .cuts import find_cuts, thumbnail
from .footage import Footage, Window

if TYPE_CHECKING:
    from litdata import StreamingDataset

INDEX = "index.json"
ENCODINGS = ("raw", "png")
SHARD_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class StreamedFootage(Footage):
    """Frames that are items of a streamed dataset.

    Attributes:
        folder: of the shards; a path or an address such as `s3://bucket/folder`.
        cache: where shards from an address are kept.
        first: index of the item that is the first frame.
        encoding: of `ENCODINGS`.
    """

    folder: str = ""
    cache: str = ""
    first: int = 0
    encoding: str = "raw"

    def read(self, times: range, window: Window, random: np.random.Generator) -> np.ndarray:
        """See `Footage`."""
        items = open_shards(self.folder, self.cache, os.getpid())
        return np.stack([self._frame(items[self.first + time])[window.area] for time in times])

    def _frame(self, item: Any) -> np.ndarray:
        if self.encoding == "raw":
            return np.frombuffer(item, dtype=np.uint8).reshape(self.height, self.width, 3)
        from PIL import Image

        with Image.open(BytesIO(item)) as picture:
            return np.array(picture)


def is_shards(folder: str | Path) -> bool:
    """Whether a folder holds shards; an address of an object store is taken for one."""
    return is_address(folder) or (Path(folder) / INDEX).exists()


def is_address(folder: str | Path) -> bool:
    """Whether a folder is named by an address such as `s3://bucket/folder`; LitData's `local:/path` is one too.

    Example:
        >>> is_address("s3://bucket/clips"), is_address("data/clips"), is_address("C:/clips")
        (True, False, False)
    """
    return re.match(r"[a-z][a-z0-9]+:", str(folder)) is not None


def require_litdata() -> None:
    """Say what to do where LitData, which only shards need, is not installed.

    Raises:
        ValueError: where it is not.
    """
    if find_spec("litdata") is None:
        raise ValueError("LitData's shards need the package litdata, which is not here; pip install 'lvc_zoo[train]'")


# one open dataset a process: a forked worker must not share its parent's
@lru_cache(maxsize=8)
def open_shards(folder: str, cache: str, process: int) -> "StreamingDataset":
    """The items of a folder of shards, for random access; those of an address come by way of `cache`."""
    require_litdata()
    from litdata import StreamingDataset

    cache_dir = cache if is_address(folder) else None
    return StreamingDataset(folder, cache_dir, shuffle=False, batch_decode=0)


def list_shards(
    folder: str | Path, cache: str | Path, exclude: Sequence[str] = (), *, is_held_out: bool | None = None
) -> list[Footage]:
    """The footage in a folder of shards, as it was when they were made.

    Args:
        folder: a path or an address.
        cache: where shards from an address are kept.
        exclude: glob patterns of names to leave out.
        is_held_out: what it is for, which shards of one of Vimeo-90K's two lists must suit; None is for anything.

    Raises:
        ValueError: for shards that `lvc-zoo data optimize` did not make, or of the other list.
    """
    items = open_shards(str(folder), str(cache), os.getpid())
    try:
        # len(items) would be this process's share; the reader behind them, open after the first item, knows them all
        items[0]
        table = json.loads(bytes(items[len(items.cache) - 1]))
        place = {"folder": str(folder), "cache": str(cache), "encoding": table["encoding"]}
        footage = [StreamedFootage(**row | place | {"cuts": tuple(row["cuts"])}) for row in table["footage"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{folder} holds LitData's shards, but no table of footage in the last item; make them anew with "
            "`lvc-zoo data optimize FOLDER OUT`"
        ) from error
    made_of = table.get("held_out")
    if None not in (made_of, is_held_out) and made_of != is_held_out:
        lists = ("training list", "test list")
        raise ValueError(
            f"{folder} holds shards of the data set's {lists[made_of]}, expected its {lists[not made_of]}; make them "
            f"with `lvc-zoo data optimize FOLDER OUT{' --held-out' if is_held_out else ''}`"
        )
    return [source for source in footage if not is_excluded(source.name, exclude)]


def write_shards(
    sources: Iterable[tuple[str, Iterable[np.ndarray], Sequence[int] | None]],
    out: Path,
    encoding: str = "raw",
    shard_bytes: int = SHARD_BYTES,
    *,
    is_held_out: bool | None = None,
) -> list[dict[str, Any]]:
    """Write footage, frame by frame, into shards; their last item is a table of the footage, which is also returned.

    Args:
        sources: name, frames, uint8 `(H, W, 3)`, and cuts of each; None finds them.
        out: an empty folder, or none yet.
        encoding: "raw", or "png" for about half of the bytes and twenty times the reading time.
        shard_bytes: aim for the size of a shard.
        is_held_out: whether they are of a data set's own test list; None where it has no lists.
    """
    require_litdata()
    from litdata.streaming import Cache

    if encoding not in ENCODINGS:
        raise ValueError(f"encoding is {encoding!r}, expected one of {', '.join(ENCODINGS)}")
    shards, table, count = Cache(str(out), chunk_bytes=shard_bytes), [], 0
    for name, frames, cuts in sources:
        first, thumbnails, shape = count, [], (0, 0, 3)
        for frame in frames:
            shards[count] = frame.tobytes() if encoding == "raw" else _png(frame)
            thumbnails.append(thumbnail(frame))
            count, shape = count + 1, frame.shape
        size = {"num_frames": count - first, "height": shape[0], "width": shape[1]}
        found = find_cuts(np.stack(thumbnails)) if cuts is None else list(cuts)
        table.append({"name": name, "first": first, **size, "cuts": found})
    shards[count] = json.dumps({"encoding": encoding, "held_out": is_held_out, "footage": table}).encode()
    shards.done()
    shards.merge()
    return table


def _png(frame: np.ndarray) -> bytes:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(frame).save(file, "png", compress_level=1)
    return file.getvalue()
