"""BiECVC: its ablations, and what the bundled tiny variant must cope with."""

import io
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lvc_zoo import BiECVC, RandomAccess, create_model
from lvc_zoo.codec.reader import TensorReader
from lvc_zoo.hub import bundled_names
from lvc_zoo.metrics import psnr_db
from tests.miniature import moving_clip

ROOT = Path(__file__).resolve().parents[2]
ANCHORS = (0, 21, 42, 63)
needs_weights = pytest.mark.skipif("biecvc-tiny" not in bundled_names(), reason="no bundled weights in this tree")
ABLATION = [
    {"secondary": False, "non_local": False, "gating": False},
    {"non_local": False, "gating": False},
    {"gating": False},
    {},
]


@pytest.fixture(scope="module")
def tiny():
    return BiECVC.from_pretrained("biecvc-tiny")


def smallest(**overrides):
    shape = {"latent": 16, "hyper": 8, "motion": 8, "spynet_widths": (4, 4, 4, 4), "prior_width": 16}
    return create_model(
        "biecvc-tiny", **{"intra.latent": 16, "intra.hyper": 8, "intra.prior_width": 16}, **shape, **overrides
    )


BLOCKS = {"estimator": "block_matching", "motion_shortcut": True}


@pytest.mark.parametrize("overrides", [*ABLATION, BLOCKS], ids=["base", "+blcd", "+bnlcd", "+bcg", "block motion"])
def test_ablation_codes_and_decodes(overrides):
    torch.manual_seed(0)
    codec, clip = smallest(**overrides).eval(), moving_clip(5, 32, 48)
    with torch.no_grad():
        estimate = codec(clip, 32, RandomAccess(4))
    decoded = codec.decompress(codec.compress(clip, 32, RandomAccess(4)))
    assert torch.equal(decoded, estimate.x_hat)


def test_ablation_each_step_adds_parameters():
    counts = [sum(p.numel() for p in smallest(**overrides).parameters()) for overrides in ABLATION]
    assert counts == sorted(set(counts))


def test_config_heads_that_do_not_divide_raise():
    with pytest.raises(ValueError, match="do not split into heads"):
        create_model("biecvc-tiny", head_dim=7)


def test_config_unknown_key_names_nearest():
    with pytest.raises(ValueError, match="gating"):
        create_model("biecvc-tiny", gateing=False)


def test_reference_far_below_trained_layers_reuses_last_adaptor():
    codec, clip = smallest().eval(), moving_clip(1, 16, 16)[0]
    with torch.no_grad():
        shallow, deep = (codec(clip.expand(n, -1, -1, -1), 32, RandomAccess(n - 1)) for n in (33, 129))
    assert deep.x_hat.isfinite().all()
    assert shallow.bpp.isfinite().all()


@needs_weights
def test_tiny_rate_and_quality_rise_over_anchors(tiny):
    clip = moving_clip(5, 96, 160)
    streams = [tiny.compress(clip, q, RandomAccess(4)) for q in ANCHORS]
    quality = [float(psnr_db(tiny.decompress(data), clip).mean()) for data in streams]
    assert all(a < b for a, b in itertools.pairwise(map(len, streams)))
    assert all(a < b for a, b in itertools.pairwise(quality))


@needs_weights
@pytest.mark.parametrize("size", [(16, 16), (17, 33), (35, 16), (64, 64), (120, 213)], ids=str)
def test_tiny_any_size_decodes_bit_exactly(tiny, size):
    check_round_trip(tiny, moving_clip(3, *size), RandomAccess(2))


@needs_weights
@pytest.mark.slow
@pytest.mark.parametrize("size", [(288, 352), (719, 1279), (720, 1280), (1080, 1920)], ids=str)
def test_tiny_large_size_decodes_bit_exactly(tiny, size):
    check_round_trip(tiny, moving_clip(3, *size), RandomAccess(2))


@needs_weights
@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_tiny_few_frames_decode_bit_exactly(tiny, num_frames):
    check_round_trip(tiny, moving_clip(num_frames, 16, 32), RandomAccess(32))


@needs_weights
@pytest.mark.slow
@pytest.mark.parametrize("num_frames", [33, 40, 96, 97])
def test_tiny_many_frames_decode_bit_exactly(tiny, num_frames):
    check_round_trip(tiny, moving_clip(num_frames, 32, 48), RandomAccess(32))


def check_round_trip(codec, clip, structure):
    file = io.BytesIO()
    coded = {f.plan.poc: f.x_hat[0] for f, _ in codec.encode_frames(TensorReader(clip), file, 32, structure)}
    decoded = codec.decompress(file.getvalue())
    assert decoded.shape == clip.shape
    assert torch.equal(decoded, torch.stack([coded[poc] for poc in range(len(clip))]))


# not getrusage: a child inherits its parent's maximum; freed blocks go back to the system, or their places would count
GLIBC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
PEAK = """
import re, sys
from pathlib import Path
from lvc_zoo import BiECVC
for _ in BiECVC.from_pretrained("biecvc-tiny").decode(sys.argv[1]):
    pass
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@needs_weights
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
def test_tiny_decoding_memory_does_not_grow_with_frames(tiny, tmp_path):
    """160 more frames of 192x320 are 112 MB of float pictures; a tenth of that may be noise."""
    peaks_kib = []
    for num_frames in (33, 193):
        path = tmp_path / f"{num_frames}.lvc"
        tiny.encode(TensorReader(moving_clip(num_frames, 192, 320)), path, 10)
        result = subprocess.run(
            [sys.executable, "-c", PEAK, str(path)],
            cwd=ROOT,
            env=os.environ | GLIBC,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks_kib.append(int(result.stdout))
    growth_mb = (peaks_kib[1] - peaks_kib[0]) / 1024
    assert growth_mb < 160 * 192 * 320 * 3 * 4 / 2**20 / 10, f"peaks {peaks_kib} KiB"
