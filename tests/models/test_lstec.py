"""L-STEC: counts of the reference sheet, its ablation and timing switches, what the bundled variant must cope with."""

import io
import itertools

import pytest
import torch

from lvc_zoo import LSTEC, LowDelay, VideoCodec, create_model, observe
from lvc_zoo.blocks.recurrent import LSTMState
from lvc_zoo.codec.reader import TensorReader
from lvc_zoo.evaluation.complexity import measure_complexity
from lvc_zoo.hub import bundled_names
from lvc_zoo.metrics import psnr_db
from tests.miniature import moving_clip

ANCHORS = (0, 21, 42, 63)
needs_weights = pytest.mark.skipif("lstec-tiny" not in bundled_names(), reason="no bundled weights in this tree")
# reference sheet, section 3.4: parameters, kMAC/pixel of a steady-state P frame at 256x256
COUNTED = {
    "Ma": ({"long_term": False, "spatial": False}, 19_655_315, 1304.6),
    "Mb": ({"spatial": False}, 21_526_179, 1906.5),
    "Mb light": ({"spatial": False, "refinement": "light"}, 20_185_795, 1551.2),
    "Mc": ({}, 24_951_075, 2902.9),
    "Mc light": ({"refinement": "light"}, 22_270_307, 2192.1),
}
ABLATION = [COUNTED[name][0] for name in ("Ma", "Mb", "Mc")] + [{"hidden": "fresh"}, {"refinement": "full"}]


def smallest(**overrides):
    shape = {"latent": 16, "hyper": 8, "motion": 8, "spynet_widths": (4, 4, 4, 4), "prior_width": 16}
    return create_model(
        "lstec-tiny", **{"intra.latent": 16, "intra.hyper": 8, "intra.prior_width": 16}, **shape, **overrides
    )


@pytest.mark.parametrize(("overrides", "parameters", "kmacs"), COUNTED.values(), ids=COUNTED)
def test_complexity_equals_counted(overrides, parameters, kmacs):
    codec = create_model("lstec", **overrides)
    assert sum(p.numel() for p in codec.inter.parameters()) == parameters
    columns = measure_complexity(codec, (256, 256))["inter"].columns
    assert columns["steady-state P"]["total"] == pytest.approx(kmacs, rel=1e-3)


def test_complexity_first_p_frame_of_stored_hidden_skips_refinement():
    # reference sheet, CHOICE-2
    columns = measure_complexity(create_model("lstec"), (256, 256))["inter"].columns
    assert columns["first P after I"]["total"] == pytest.approx(2028, rel=1e-3)


def test_tiny_fits_the_budget_of_biecvc_tiny():
    codec = create_model("lstec-tiny")
    assert sum(p.numel() for p in codec.parameters()) <= 8e6
    assert measure_complexity(codec, (256, 256))["inter"].columns["steady-state P"]["total"] <= 150


@pytest.mark.parametrize("overrides", ABLATION, ids=["Ma", "Mb", "Mc", "fresh", "full"])
def test_ablation_codes_and_decodes(overrides):
    torch.manual_seed(0)
    codec, clip = smallest(**overrides).eval(), moving_clip(6, 32, 48)
    with torch.no_grad():
        estimate = codec(clip, 32, LowDelay(4))
    decoded = codec.decompress(codec.compress(clip, 32, LowDelay(4)))
    assert torch.equal(decoded, estimate.x_hat)


def frames_that_change(codec, module):
    """Frames of a clip, intra period 4, whose estimate changes when a module's weights do."""
    clip = moving_clip(6, 16, 16)
    with torch.no_grad():
        before = codec(clip, 32, LowDelay(4)).x_hat
        for parameter in module.parameters():
            parameter.add_(0.1)
        after = codec(clip, 32, LowDelay(4)).x_hat
    return [poc for poc in range(6) if not torch.equal(before[poc], after[poc])]


@pytest.mark.parametrize(("hidden", "expected"), [("stored", [2, 3]), ("fresh", [1, 2, 3, 5])])
def test_hidden_timing_decides_which_frame_is_refined_first(hidden, expected):
    """Frames 0 and 4 are I frames: with the stored state the P frame after one has no hidden state yet."""
    torch.manual_seed(0)
    codec = smallest(hidden=hidden).eval()
    assert frames_that_change(codec, codec.inter.temporal.chain.refinement) == expected
    assert frames_that_change(codec, codec.inter.spatial.chain.cell) == expected


def test_stored_hidden_of_third_frame_has_seen_only_the_i_frame():
    """Eq. 10: the state that refines frame t is older than the reference's own feature."""
    torch.manual_seed(0)
    codec = smallest().eval()
    chain = codec.inter.temporal.chain
    feature, older = torch.randn(1, 8, 4, 4), LSTMState(torch.rand(1, 8, 4, 4), torch.randn(1, 8, 4, 4))
    new, hidden = chain.step(feature, older)
    assert torch.equal(hidden[0], older.hidden)
    assert torch.equal(new.cell, chain.cell(feature, older).cell)
    assert chain.step(feature, None)[1] is None


def test_untrained_tiny_decodes_the_flow_that_it_estimated():
    """The networks around the shortcuts start quiet, so motion means something before the first step."""
    torch.manual_seed(0)
    codec = create_model("lstec-tiny").eval()
    picture = moving_clip(1, 64, 104)[0]
    frames = torch.stack([picture[..., :96], picture[..., 4:100]])
    with torch.no_grad(), observe(codec.inter, "motion.estimator", "motion.decoder") as seen:
        codec(frames, 63)
    ((correction, _),) = seen["motion.decoder"]
    estimated = seen["motion.estimator"][0][0, 0, :, 16:-16]
    assert float(estimated.mean()) == pytest.approx(4, abs=0.3)
    assert float(correction.abs().mean()) < 0.1


def test_config_shortcut_without_prior_width_raises():
    with pytest.raises(ValueError, match="prior_width"):
        create_model("lstec", shortcut=True)


def test_config_unknown_value_names_expected():
    with pytest.raises(ValueError, match="stored"):
        create_model("lstec-tiny", hidden="late")


@needs_weights
def test_tiny_shares_the_intra_codec_of_biecvc_tiny():
    ours, theirs = (VideoCodec.from_pretrained(name).intra.state_dict() for name in ("lstec-tiny", "biecvc-tiny"))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@needs_weights
def test_tiny_rate_and_quality_rise_over_anchors():
    tiny, clip = LSTEC.from_pretrained("lstec-tiny"), moving_clip(5, 96, 160)
    streams = [tiny.compress(clip, q) for q in ANCHORS]
    quality = [float(psnr_db(tiny.decompress(data), clip).mean()) for data in streams]
    assert all(a < b for a, b in itertools.pairwise(map(len, streams)))
    assert all(a < b for a, b in itertools.pairwise(quality))


@needs_weights
@pytest.mark.parametrize("size", [(16, 16), (17, 33), (120, 213)], ids=str)
def test_tiny_any_size_decodes_bit_exactly(size):
    tiny, clip, file = LSTEC.from_pretrained("lstec-tiny"), moving_clip(3, *size), io.BytesIO()
    coded = [f.x_hat[0] for f, _ in tiny.encode_frames(TensorReader(clip), file, 32)]
    assert torch.equal(tiny.decompress(file.getvalue()), torch.stack(coded))
