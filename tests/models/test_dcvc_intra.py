"""The intra codec against numbers of the published model."""

import pytest
import torch
from safetensors.torch import load_file

from lvc_zoo.codec.picture import FrameInfo
from lvc_zoo.entropy.coder import RateEstimator
from lvc_zoo.gop import FramePlan, FrameType
from lvc_zoo.models import create_model
from lvc_zoo.models.dcvc_intra import convert_intra
from tests.parity import SHARED, formula, needs_shared, official_shapes

HOT = {"hyper_enc.3": 12, "y_spatial_prior.2.block.1.conv_out": 4}


@needs_shared
@pytest.mark.parametrize(("case", "gains"), [("intra", None), ("hot.intra", HOT)])
def test_intra_formula_weights_reproduce_published_model(case, gains):
    shapes = official_shapes("dcvc_dc_intra")
    expected = load_file(SHARED / "parity/dcvc_dc.safetensors")
    codec = create_model("dcvc-dc-intra")
    missing, unexpected = codec.intra.load_state_dict(
        convert_intra(formula().formula_state_dict(shapes, gains)), strict=False
    )
    assert unexpected == []
    assert all("tables" in name or name.endswith("table_source") for name in missing)

    x, coder = formula().formula_video(5, 64, 128, seed=0)[:1], RateEstimator()
    with torch.no_grad():
        info = FrameInfo((64, 128), torch.tensor([1.0]), FramePlan(0, FrameType.I))
        picture = codec.intra(x, (), coder, info)
    bpp = sum(coder.bits.values()) / (64 * 128)
    torch.testing.assert_close(picture.x_hat, expected[f"{case}.x_hat"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bpp, expected[f"{case}.bpp"], rtol=1e-4, atol=0)


def test_intra_paper_size_has_published_parameter_count():
    assert sum(p.numel() for p in create_model("dcvc-dc-intra").parameters()) == 30_998_187


def test_convert_foreign_name_raises():
    with pytest.raises(ValueError, match="not a name of the DCVC-DC intra codec"):
        convert_intra({"backbone.layer1.weight": torch.zeros(1)})
