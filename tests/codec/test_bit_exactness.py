"""Writer and reader must agree to the last bit, whatever process, thread count, cache or size."""

import io
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from lvc_zoo.codec.reader import TensorReader
from lvc_zoo.gop import RandomAccess
from tests.miniature import Digests, miniature, moving_clip

SIZES = [(16, 16), (17, 33), (96, 160)]
ROOT = Path(__file__).resolve().parents[2]


def encode(codec, clip, cache=True):
    """Stream, reconstruction in display order, digests and symbols by latent."""
    file, digests, seen = io.BytesIO(), Digests(), defaultdict(list)

    def log(name, index, symbols, y_hat):
        digests.log(name, index, symbols, y_hat)
        seen[name].append((index, symbols))

    coded = {
        frame.plan.poc: frame.x_hat[0]
        for frame, _ in codec.encode_frames(TensorReader(clip), file, 32, RandomAccess(2), cache=cache, log=log)
    }
    x_hat = torch.stack([coded[poc] for poc in range(len(clip))])
    digests.frames(x_hat)
    return file.getvalue(), x_hat, digests, seen


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_reader_same_process_agrees_with_writer(size):
    codec = miniature()
    data, x_hat, written, _ = encode(codec, moving_clip(3, *size))
    for cache in (True, False):
        read = Digests()
        decoded = torch.stack(list(codec.decode(io.BytesIO(data), cache=cache, log=read.log)))
        read.frames(decoded)
        assert torch.equal(decoded, x_hat)
        assert read.hex() == written.hex()


@pytest.mark.parametrize(("threads", "cache"), [(1, "cache"), (2, "no-cache")])
def test_reader_fresh_process_agrees_with_writer(threads, cache, tmp_path):
    codec, expected, paths = miniature(), [], []
    for size in SIZES:
        data, _, written, _ = encode(codec, moving_clip(3, *size))
        paths.append(tmp_path / f"{size}.lvc")
        paths[-1].write_bytes(data)
        expected.append(written.hex())
    command = [sys.executable, "-m", "tests.miniature", str(threads), cache, *map(str, paths)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == expected


def test_writer_with_and_without_cache_writes_same_bytes():
    codec, clip = miniature(), moving_clip(5, 32, 48)
    assert encode(codec, clip)[0] == encode(codec, clip, cache=False)[0]


def test_stand_in_weights_exercise_levels_and_escapes_in_every_step():
    """Without this the other tests could pass on a codec that codes nothing but zeros."""
    codec = miniature()
    _, _, _, seen = encode(codec, moving_clip(3, 96, 160))
    tables = codec.inter.latents.quadtree.tables
    for step in range(4):
        index, symbols = seen[f"frame/{step}"][-1]  # the last coded frame is the B frame
        levels = set(index.tolist())
        bounds = tables.bounds[torch.from_numpy(index).long()]
        assert len(levels) >= len(tables.bounds) / 2, f"step {step} uses {len(levels)} levels"
        assert bool((torch.from_numpy(symbols).abs() > bounds).any()), f"step {step} has no escape"
