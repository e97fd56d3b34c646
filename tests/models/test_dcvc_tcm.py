"""The P frames of DCVC-TCM against numbers of the published model."""

import json

import pytest
import torch
from safetensors.torch import load_file

from lvc_zoo.codec.picture import FrameInfo, Picture
from lvc_zoo.entropy.coder import RateEstimator
from lvc_zoo.gop import FramePlan, FrameType
from lvc_zoo.models import create_model
from lvc_zoo.models.dcvc_tcm import DCVCTCM
from tests.models.test_dcvc_tcm_intra import SHARED, checkpoint, formula, needs_shared

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
    shapes = json.loads((SHARED / "reference/checkpoints/dcvc_tcm_keys.json").read_text())
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
