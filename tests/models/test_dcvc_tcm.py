"""The P frames of DCVC-TCM against numbers of the published model."""

import pytest
import torch
from safetensors.torch import load_file

from lvc_zoo.cli import main
from lvc_zoo.codec.picture import FrameInfo, Picture
from lvc_zoo.codec.video import VideoCodec
from lvc_zoo.entropy.coder import Noise, RateEstimator
from lvc_zoo.errors import WeightsError
from lvc_zoo.gop import FramePlan, FrameType, LowDelay
from lvc_zoo.models import create_model
from lvc_zoo.models.checkpoint import convert_checkpoint
from lvc_zoo.models.dcvc_tcm import DCVCTCM, DCVCTCMState
from tests.gradients import assert_gradients_reach_all
from tests.miniature import moving_clip
from tests.models.test_dcvc_tcm_intra import checkpoint
from tests.parity import SHARED, formula, needs_shared, official_shapes

HOT = {
    "mv_prior_encoder.4": 4,
    "contextual_hyper_prior_encoder.4": 2,
    "mv_prior_decoder.4": 5,
    "contextual_hyper_prior_decoder.4": 5,
}


@needs_shared
@pytest.mark.parametrize(("case", "gains"), [("", None), ("hot.", HOT)])
def test_p_frames_formula_weights_reproduce_published_model(case, gains):
    expected = load_file(SHARED / "parity/dcvc_tcm.safetensors")
    shapes = official_shapes("dcvc_tcm")
    codec = create_model("dcvc-tcm")
    states = DCVCTCM.convert(formula().formula_state_dict(shapes, gains), checkpoint())
    missing, unexpected = codec.inter.load_state_dict(states["inter"], strict=False)
    assert unexpected == []
    assert all("tables" in name or name.endswith("table_source") for name in missing)

    video = formula().formula_video(5, 192, 256, seed=0)
    # the loop would clamp the reference; the published numbers are of an unclamped one
    picture, plan = Picture(video[:1]), FramePlan(0, FrameType.I)
    for poc in (1, 2):
        coder = RateEstimator()
        with torch.no_grad():
            reference = codec.inter.reference(picture, plan)
            plan = FramePlan(poc, FrameType.P, (poc - 1,), 1, poc)
            picture = codec.inter(
                video[poc : poc + 1], (reference,), coder, FrameInfo((192, 256), torch.zeros(1), plan)
            )
        bpp = sum(coder.bits.values()) / (192 * 256)
        torch.testing.assert_close(picture.x_hat, expected[f"{case}p{poc}.x_hat"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(bpp, expected[f"{case}p{poc}.bpp"], rtol=1e-4, atol=0)


def small():
    """Untrained, with latents that do not all round to zero."""
    torch.manual_seed(0)
    codec = create_model("dcvc-tcm", channels=8, latent=6, motion=8, spynet_widths=(4, 4), **{"intra.channels": 8})
    network = codec.inter
    with torch.no_grad():
        for last in (network.encoder.down4, network.motion.encoder[-1], codec.intra.analysis[-1]):
            last.weight.mul_(60)
        for part in (network, network.motion, codec.intra):
            part.hyper.analysis[-1].weight.mul_(20)
    return codec


def test_inter_has_published_parameter_count():
    assert sum(p.numel() for p in create_model("dcvc-tcm").inter.parameters()) == 10_708_989


def test_stream_decodes_to_the_estimate_whatever_threads_and_cache(tmp_path):
    codec, clip, path, structure = small().eval(), moving_clip(4, 40, 70), tmp_path / "clip.lvc", LowDelay(3)
    path.write_bytes(codec.compress(clip, structure=structure))
    with torch.no_grad():
        estimate = codec(clip, structure=structure)
    assert all(bool((estimate.bits[part][:, 1] > 0).all()) for part in ("motion", "frame", "hyper"))
    before = torch.get_num_threads()
    try:
        for threads, cache in ((1, True), (2, False)):
            torch.set_num_threads(threads)
            assert torch.equal(torch.stack(list(codec.decode(path, cache=cache))), estimate.x_hat)
    finally:
        torch.set_num_threads(before)


def test_inter_every_parameter_gets_a_gradient():
    codec, clip = small(), moving_clip(3, 64, 64)
    picture, plan, total = Picture(clip[:1]), FramePlan(0, FrameType.I), torch.zeros(())
    for poc in (1, 2):
        coder = RateEstimator(Noise(0, 0, 0, poc))
        reference = codec.inter.reference(picture, plan)
        plan = FramePlan(poc, FrameType.P, (poc - 1,), 1, poc)
        picture = codec.inter(clip[poc : poc + 1], (reference,), coder, FrameInfo((64, 64), torch.zeros(1), plan))
        total = total + picture.x_hat.square().sum() + torch.stack(list(coder.bits.values())).sum()
    assert_gradients_reach_all(codec.inter, total.reshape(1))


def test_p_frame_after_an_i_frame_reads_the_picture_alone():
    codec, plan = small(), FramePlan(0, FrameType.I)
    x = torch.rand(1, 3, 64, 64)
    opening = codec.inter.reference(Picture(x), plan)
    following = codec.inter.reference(Picture(x, DCVCTCMState(torch.rand(1, 8, 64, 64))), plan)
    assert torch.equal(opening.features[0], codec.inter.miner.pyramid(codec.inter.miner.adaptor_intra(x))[0])
    assert not torch.equal(opening.features[0], following.features[0])


@needs_shared
def test_convert_needs_both_checkpoints(tmp_path, capsys):
    shapes = official_shapes("dcvc_tcm")
    inter, intra, out = tmp_path / "inter.pth", tmp_path / "intra.pth", tmp_path / "weights"
    torch.save({"state_dict": {f"module.{k}": v for k, v in formula().formula_state_dict(shapes).items()}}, inter)
    torch.save(checkpoint(width=48), intra)

    assert main(["convert", "dcvc-tcm", str(inter), str(out)]) == 2
    assert f"'dcvc-tcm' needs two official checkpoints, got {inter} alone" in capsys.readouterr().err
    with pytest.raises(ValueError, match="'dcvc-tcm-intra' has one official checkpoint, got a second one"):
        convert_checkpoint("dcvc-tcm-intra", intra, intra)
    with pytest.raises(WeightsError, match="not a name of the DCVC-TCM video codec"):
        convert_checkpoint("dcvc-tcm", intra, inter)

    files = [str(inter), str(out), "--intra", str(intra)]
    assert main(["convert", "dcvc-tcm", *files, "--set", "intra.channels=48"]) == 0
    codec = VideoCodec.from_pretrained(out)
    assert isinstance(codec, DCVCTCM)
    assert [entry["file"] for entry in codec.metadata["converted_from"]] == ["inter.pth", "intra.pth"]
    expected = formula().formula_tensor("mv_decoder.8.weight", (128, 2, 3, 3))
    assert torch.equal(codec.inter.motion.decoder[8].weight, expected)


def test_config_odd_channels_raises():
    with pytest.raises(ValueError, match="motion is 9, expected an even number"):
        create_model("dcvc-tcm", motion=9)
