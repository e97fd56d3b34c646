"""DCVC-DC's P frames against numbers of the published model, and its checkpoint's names."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from lvc_zoo import DCVCDC, LowDelay, VideoCodec, create_model
from lvc_zoo.cli import main
from lvc_zoo.codec.picture import FrameInfo, Picture
from lvc_zoo.codec.sequence import Stored, code_sequence
from lvc_zoo.entropy.coder import RateEstimator
from lvc_zoo.errors import WeightsError
from lvc_zoo.models.dcvc_dc import DCVCDCState
from tests.gradients import assert_gradients_reach_all
from tests.miniature import moving_clip
from tests.parity import SHARED, formula, needs_shared, official_shapes

HOT = {
    "mv_hyper_prior_encoder.8": 20,
    "contextual_hyper_prior_encoder.4": 14,
    "mv_hyper_prior_decoder.8": 16,
    "contextual_hyper_prior_decoder.8": 16,
    "mv_y_spatial_prior.2.block.1.conv.2": 4,
    "y_spatial_prior.2.block.1.conv.2": 4,
    "recon_generation_net.recon_conv": -4,
}
SMALL = {
    "intra.widths": (8, 12, 16),
    "intra.latent": 16,
    "intra.hyper": 8,
    "intra.refine_widths": (4, 4, 8),
    "intra.refine_depth": 1,
    "features": (8, 8, 12),
    "current": (8, 8, 12),
    "latent": 16,
    "hyper": 8,
    "motion": 8,
    "align_groups": 4,
    "spynet_widths": (4, 4),
    "unet_widths": (4, 4, 8),
    "unet_depth": 1,
}


def official(gains=None, part="video"):
    shapes = official_shapes(f"dcvc_dc_{part}")
    return formula().formula_state_dict(shapes, gains)


def code_p_frames(codec, clip, rate):
    """Pictures and bits per pixel of the P frames after frame 0, which stands as it is."""

    def source(poc):
        return clip[poc : poc + 1]

    source.size = tuple(clip.shape[-2:])
    opening, *plans = LowDelay().plans(len(clip))
    dpb = {0: Stored(Picture(clip[:1]), opening)}
    frames = code_sequence(codec, source, plans, lambda _: RateEstimator(), torch.tensor([rate]), dpb=dpb)
    return [(f.x_hat, sum(f.coder.bits.values()) / clip[0, 0].numel()) for f in frames]


@needs_shared
@pytest.mark.parametrize(("prefix", "gains", "count"), [("", None, 4), ("hot.", HOT, 2)])
def test_p_frames_formula_weights_reproduce_published_model(prefix, gains, count):
    codec, expected = create_model("dcvc-dc"), load_file(SHARED / "parity/dcvc_dc.safetensors")
    converted = DCVCDC.convert(official(gains), {})["inter"]
    missing, unexpected = codec.inter.load_state_dict(converted, strict=False)
    assert unexpected == []
    assert all("tables" in name or name.endswith("table_source") for name in missing)
    with torch.no_grad():
        coded = code_p_frames(codec, formula().formula_video(5, 64, 128, seed=0)[: count + 1], rate=1.0)
    for number, (x_hat, bpp) in enumerate(coded, start=1):
        torch.testing.assert_close(x_hat, expected[f"{prefix}p{number}.x_hat"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(bpp, expected[f"{prefix}p{number}.bpp"], rtol=1e-4, atol=0)


def small(**overrides):
    torch.manual_seed(0)
    return create_model("dcvc-dc", **SMALL, **overrides)


def test_inter_every_parameter_gets_a_gradient():
    """Six frames, since the last quality class is first read at position 5; one sample an anchor."""
    network, clip = small().inter, moving_clip(6, 32, 32)
    with torch.no_grad():  # untrained latents all round to zero
        for latents, last in (
            (network.latents, network.encoder.down4),
            (network.motion.latents, network.motion.encoder.down3[-1]),
        ):
            last.weight.mul_(20)
            latents.hyper.analysis[-1].weight.mul_(20)
    opening, *plans = LowDelay().plans(6)
    stored, total = Stored(Picture(clip[:1].expand(4, -1, -1, -1)), opening), 0.0
    for plan in plans:
        x, coder = clip[plan.poc].expand(4, -1, -1, -1), RateEstimator()
        picture = network(x, (network.reference(*stored),), coder, FrameInfo((32, 32), torch.arange(4.0), plan))
        total = total + torch.stack([picture.x_hat.square().mean(), *(b.mean() for b in coder.bits.values())]).sum()
        stored = Stored(picture, plan)
    assert_gradients_reach_all(network, total.reshape(1))


@pytest.mark.parametrize("q", [0, 21, 30])
def test_rate_rules_meet_at_the_ends_alone(q):
    """Official fine control spaces rates geometrically between the first anchor and the last."""
    codecs = [small(**{"intra.rate_rule": rule}).eval() for rule in ("anchors", "geometric")]
    for codec in codecs:
        with torch.no_grad():
            for network in (codec.intra, codec.inter):
                network.encoder_gain.scale.copy_(torch.tensor([0.5, 0.6, 0.8, 4.0]).view(-1, 1, 1, 1))
    gains = [codec.inter.encoder_gain(codec.rate_of(q)) for codec in codecs]
    assert torch.equal(*gains) == (q == 0)
    torch.testing.assert_close(gains[1], torch.full_like(gains[1], 0.5 * 8 ** (q / 63)))
    clip = moving_clip(2, 16, 32)
    assert all(torch.equal(codec.decompress(codec.compress(clip, q)), codec(clip, q).x_hat) for codec in codecs)


def test_position_beyond_training_repeats_quality_classes():
    codec, picture = small(), Picture(torch.rand(1, 3, 16, 16), DCVCDCState(torch.rand(1, 8, 16, 16), None, None))
    plans = LowDelay().plans(200)
    features = [codec.inter.reference(picture, plans[poc]).features for poc in (3, 7, 195)]
    assert all(torch.equal(a, b) for other in features[1:] for a, b in zip(features[0], other, strict=True))


def test_config_latent_that_does_not_split_raises():
    with pytest.raises(ValueError, match="motion has 30 channels, expected a multiple of 4"):
        create_model("dcvc-dc", motion=30)


@needs_shared
def test_convert_command_joins_video_and_intra_checkpoints(tmp_path, capsys):
    torch.save({"state_dict": official()}, tmp_path / "video.pth")
    torch.save(official(part="intra"), tmp_path / "intra.pth")
    command = ["convert", "dcvc-dc", tmp_path / "video.pth", tmp_path / "weights", "--intra", tmp_path / "intra.pth"]
    assert main([str(word) for word in command]) == 0
    assert "50,776,750 parameters" in capsys.readouterr().out
    codec = VideoCodec.from_pretrained(tmp_path / "weights")
    shutil.rmtree(tmp_path)
    clip = formula().formula_video(3, 33, 50)
    with torch.no_grad():
        estimate = codec(clip, 21).x_hat
    assert torch.equal(codec.decompress(codec.compress(clip, 21)), estimate)


def test_convert_foreign_name_raises():
    with pytest.raises(WeightsError, match=r"'backbone\.weight' is not a name of the DCVC-DC video codec"):
        DCVCDC.convert({"backbone.weight": torch.zeros(1)}, {})
