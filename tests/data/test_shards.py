import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lvc_zoo.data import shards as shards_module
from lvc_zoo.data.cache import read_frames, to_codes
from lvc_zoo.data.datasets import ClipPhase, RandomClips
from lvc_zoo.data.folders import footage_of
from lvc_zoo.data.footage import Group, Window
from lvc_zoo.data.shards import is_shards, list_shards, write_shards
from tests.data.test_cache import write_video
from tests.miniature import moving_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos, one with a cut."""
    folder = tmp_path_factory.mktemp("footage")
    write_video(folder / "a.mkv", moving_clip(5, 36, 50))
    write_video(folder / "b.mkv", torch.cat([moving_clip(4, 34, 40, seed=1), 0.3 * moving_clip(6, 34, 40, seed=2)]))
    return folder


@pytest.fixture(scope="module", params=["raw", "png"])
def shards(request, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    sources = [(path.name, map(to_codes, read_frames(path)), None) for path in sorted(folder.iterdir())]
    write_shards(sources, out, request.param, shard_bytes=16_000)
    return out


def random_clips(footage):
    phases = [ClipPhase(6, 3, (1, 2)), ClipPhase(2, 5)]
    return RandomClips([Group(tuple(footage))], phases, crop=32, batch_size=2, seed=1)


def test_items_of_shards_and_of_the_cache_are_equal(folder, shards, tmp_path):
    cached, streamed = footage_of(folder, tmp_path), list_shards(shards, "")
    assert len(list(shards.glob("*.bin"))) >= 3
    assert [f.cuts for f in streamed] == [f.cuts for f in cached] == [(), (4,)]
    one, two = random_clips(cached), random_clips(streamed)
    assert all(torch.equal(one[i].frames, two[i].frames) for i in range(len(one)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_read_the_same_items(shards):
    clips = random_clips(list_shards(shards, ""))
    loaders = [DataLoader(clips, batch_size=2, sampler=range(12), num_workers=workers) for workers in (0, 2)]
    for one, two in zip(*loaders, strict=True):
        assert torch.equal(one.frames, two.frames)


def test_address_is_read_as_a_folder_is(shards, tmp_path):
    address = f"local:{shards}"
    assert is_shards(address)
    one, two = list_shards(shards, "")[1], list_shards(address, tmp_path)[1]
    window, random = Window(1, 2, 16, 16), np.random.default_rng(0)
    assert np.array_equal(one.read(range(1, 9, 3), window, random), two.read(range(1, 9, 3), window, random))
    assert list(tmp_path.rglob("*.bin"))


def test_excluded_footage_is_left_out(shards):
    assert [footage.name for footage in list_shards(shards, "", ["a.*"])] == ["b.mkv"]


def test_shards_without_a_table_of_footage_raises(tmp_path):
    from litdata.streaming import Cache

    items = Cache(str(tmp_path), chunk_bytes=1 << 20)
    items[0] = json.dumps([1, 2]).encode()
    items.done()
    items.merge()
    with pytest.raises(ValueError, match=r"no table of footage in the last item; make them anew"):
        list_shards(tmp_path, "")


def test_missing_litdata_raises(monkeypatch, tmp_path):
    monkeypatch.setattr(shards_module, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"need the package litdata, which is not here; pip install 'lvc_zoo\[train\]'"
    ):
        write_shards([], tmp_path)


def test_unknown_encoding_raises(tmp_path):
    with pytest.raises(ValueError, match="encoding is 'jpeg', expected one of raw, png"):
        write_shards([], tmp_path, "jpeg")
