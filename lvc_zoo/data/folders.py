"""One way in for every kind of folder: LitData's shards, Vimeo-90K's septuplets, videos, stills, folders of frames."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .cache import decode_sources, is_excluded, list_sources, read_frames, to_codes
from .clips import demo_clip
from .footage import Footage, Window
from .septuplets import TEST_LIST, TRAINING_LIST, is_septuplets, list_septuplets
from .shards import is_shards, list_shards

DEMO = "demo"
"""Stands for the clip of `clips.demo_clip`, so that a recipe runs where there is no footage."""


def footage_of(
    folder: str, cache: str | Path, exclude: Sequence[str] = (), *, is_held_out: bool = False
) -> list[Footage]:
    """What a folder holds, in the order of names; what must be decoded is, where the cache lacks it.

    Args:
        folder: a path, the address of shards, or "demo".
        cache: see `cache.decode_sources`.
        exclude: glob patterns of names to leave out.
        is_held_out: of Vimeo-90K's septuplets those of its test list.

    Raises:
        ValueError: for shards of the other list.
    """
    if is_shards(folder):
        return list_shards(folder, cache, exclude, is_held_out=is_held_out)
    if is_septuplets(folder):
        return list_septuplets(folder, exclude, TEST_LIST if is_held_out else TRAINING_LIST)
    sources = [source for source in sources_in(folder) if not is_excluded(source.name, exclude)]
    return decode_sources(sources, cache, folder)


def names_in(folder: str, cache: str | Path) -> list[str]:
    """The names that `exclude` patterns of `footage_of` are matched with."""
    if is_shards(folder):
        return [footage.name for footage in list_shards(folder, cache)]
    if is_septuplets(folder):
        return [footage.name for footage in list_septuplets(folder)]
    return [source.name for source in sources_in(folder)]


def sources_in(folder: str) -> list[Path]:
    """The videos and pictures of a folder, or the demo clip; see `cache.list_sources`."""
    return [demo_clip()] if folder == DEMO else list_sources(folder)


class Stream(NamedTuple):
    """One source, to be read once from its beginning.

    Attributes:
        name: as in `names_in`.
        frames: begins to read; uint8 `(H, W, 3)` each.
        cuts: where they are known; None = to be found.
    """

    name: str
    frames: Callable[[], Iterable[np.ndarray]]
    cuts: tuple[int, ...] | None = None


def streams_of(folder: str, cache: str | Path, *, is_held_out: bool = False) -> list[Stream]:
    """What a folder holds, frame by frame, without decoding it into the cache.

    Args:
        folder: as for `footage_of`.
        cache: where shards from an address are kept.
        is_held_out: see `footage_of`; shards give what they have.
    """
    if is_shards(folder):
        footage = list_shards(folder, cache)
    elif is_septuplets(folder):
        footage = footage_of(folder, cache, is_held_out=is_held_out)
    else:
        return [Stream(source.name, partial(_codes_of, source)) for source in sources_in(folder)]
    return [Stream(f.name, partial(_frames_of, f), f.cuts) for f in footage]


def _frames_of(footage: Footage) -> Iterable[np.ndarray]:
    window, random = Window(0, 0, footage.height, footage.width), np.random.default_rng(0)
    return (footage.read(range(time, time + 1), window, random)[0] for time in range(footage.num_frames))


def _codes_of(source: Path) -> Iterable[np.ndarray]:
    return map(to_codes, read_frames(source))
