"""One way in for every kind of folder: LitData's shards, Vimeo-90K's septuplets, videos, stills, folders of frames."""

from collections.abc import Sequence
from pathlib import Path

from .cache import decode_folder, list_sources
from .footage import Footage
from .septuplets import is_septuplets, list_septuplets
from .shards import is_shards, list_shards


def footage_of(folder: str, cache: str | Path, exclude: Sequence[str] = ()) -> list[Footage]:
    """What a folder holds, in the order of names; what must be decoded is, where the cache lacks it.

    Args:
        folder: a path, or the address of shards.
        cache: see `cache.decode_folder`.
        exclude: glob patterns of names to leave out.
    """
    if is_shards(folder):
        return list_shards(folder, cache, exclude)
    if is_septuplets(folder):
        return list_septuplets(folder, exclude)
    return decode_folder(folder, cache, exclude)


def names_in(folder: str, cache: str | Path) -> list[str]:
    """The names that `exclude` patterns of `footage_of` are matched with."""
    if is_shards(folder):
        return [footage.name for footage in list_shards(folder, cache)]
    if is_septuplets(folder):
        return [footage.name for footage in list_septuplets(folder)]
    return [source.name for source in list_sources(folder)]
