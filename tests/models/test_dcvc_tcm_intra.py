"""The intra codec of DCVC-TCM against numbers of the published model."""

import pytest
import torch
from safetensors.torch import load_file

from lvc_zoo.codec.picture import FrameInfo
from lvc_zoo.entropy.coder import RateEstimator
from lvc_zoo.errors import WeightsError
from lvc_zoo.gop import FramePlan, FrameType
from lvc_zoo.models import create_model
from lvc_zoo.models.checkpoint import convert_checkpoint
from lvc_zoo.models.dcvc_tcm_intra import convert_tcm_intra
from tests.miniature import moving_clip
from tests.parity import SHARED, formula, needs_shared, official_shapes

HOT = {"h_a.8": 8, "h_s.8": 8}


def checkpoint(gains=None, width=192):
    """Stand-in weights under the official names, the constant buffers among them."""
    shapes = official_shapes("dcvc_tcm_intra")
    shapes = {name: [n * width // 192 if n % 96 == 0 else n for n in shape] for name, shape in shapes.items()}
    return formula().formula_state_dict(shapes, gains)


def small(**overrides):
    torch.manual_seed(0)
    return create_model("dcvc-tcm-intra", channels=8, **overrides).eval()


@needs_shared
@pytest.mark.parametrize(("case", "poc", "gains"), [("intra", 0, None), ("hot.intra", 2, HOT)])
def test_intra_formula_weights_reproduce_published_model(case, poc, gains, tmp_path):
    expected = load_file(SHARED / "parity/dcvc_tcm_intra.safetensors")
    torch.save(checkpoint(gains), tmp_path / "intra.pth")
    codec = convert_checkpoint("dcvc-tcm-intra", tmp_path / "intra.pth")
    x, coder = formula().formula_video(5, 192, 256, seed=0)[poc : poc + 1], RateEstimator()
    with torch.no_grad():
        picture = codec.intra(x, (), coder, FrameInfo((192, 256), torch.zeros(1), FramePlan(0, FrameType.I)))
    bpp = sum(coder.bits.values()) / (192 * 256)
    torch.testing.assert_close(picture.x_hat, expected[f"{case}.x_hat"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bpp, expected[f"{case}.bpp"], rtol=1e-4, atol=0)


@pytest.mark.parametrize(("width", "count"), [(128, 10_561_996), (192, 23_738_028)])
def test_intra_has_published_parameter_count(width, count):
    assert sum(p.numel() for p in create_model("dcvc-tcm-intra", channels=width).parameters()) == count


@needs_shared
def test_convert_other_width_takes_an_override(tmp_path):
    torch.save(checkpoint(width=48), tmp_path / "narrow.pth")
    with pytest.raises(WeightsError, match="of another shape"):
        convert_checkpoint("dcvc-tcm-intra", tmp_path / "narrow.pth")
    codec = convert_checkpoint("dcvc-tcm-intra", tmp_path / "narrow.pth", overrides={"channels": 48})
    assert codec.config.channels == 48
    frames = moving_clip(1, 40, 70)
    assert torch.equal(codec.decompress(codec.compress(frames)), codec(frames).x_hat)


def test_convert_foreign_name_raises():
    with pytest.raises(WeightsError, match="not a name of the DCVC-TCM intra codec"):
        convert_tcm_intra({"backbone.weight": torch.zeros(1), "entropy_bottleneck._offset": torch.zeros(0)})


def test_single_rate_codec_takes_its_own_q_alone():
    codec, frames = small(), moving_clip(1, 20, 30)
    assert codec.rate_of(32).tolist() == [0.0]
    assert codec.lambda_of(32) == codec.config.lambda_rd
    assert codec(frames).x_hat.shape == frames.shape
    for code in (codec.compress, codec, lambda _, q: codec.lambda_of(q)):
        with pytest.raises(ValueError, match=r"q is \[21.0\], but 'custom' codes at a single rate, q = 32; leave"):
            code(frames, 21)


def test_frames_are_padded_with_zeros_to_multiples_of_64():
    codec, seen = small(), []
    codec.intra.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    frames = moving_clip(1, 65, 30)
    codec(frames)
    codec.compress(frames)
    for x in seen:
        assert x.shape == (1, 3, 128, 64)
        assert torch.equal(x[..., :65, :30], frames)
        assert float(x[..., 65:, :].abs().max()) == float(x[..., 30:].abs().max()) == 0
    assert len(seen) == 2


def test_config_that_does_not_fit_raises():
    with pytest.raises(ValueError, match="channels is 7, expected an even number"):
        create_model("dcvc-tcm-intra", channels=7)
    with pytest.raises(ValueError, match=r"lambda_rd is 0\.0, expected a positive weight"):
        small(lambda_rd=0)
