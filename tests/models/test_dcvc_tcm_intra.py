"""The intra codec of DCVC-TCM against numbers of the published model."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lvc_zoo.codec.picture import FrameInfo
from lvc_zoo.entropy.coder import RateEstimator
from lvc_zoo.gop import FramePlan, FrameType
from lvc_zoo.models import create_model
from lvc_zoo.models.checkpoint import _load_parameters
from lvc_zoo.models.dcvc_tcm_intra import DCVCTCMIntra

SHARED = Path(__file__).resolve().parents[3] / "shared"
HOT = {"h_a.8": 8, "h_s.8": 8}

needs_shared = pytest.mark.skipif(not (SHARED / "parity").exists(), reason="the reference numbers are not here")


def formula():
    spec = importlib.util.spec_from_file_location("formula", SHARED / "parity" / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkpoint(gains=None):
    shapes = json.loads((SHARED / "reference/checkpoints/dcvc_tcm_intra_keys.json").read_text())
    return formula().formula_state_dict(shapes, gains)


@needs_shared
@pytest.mark.parametrize(("case", "poc", "gains"), [("intra", 0, None), ("hot.intra", 2, HOT)])
def test_intra_formula_weights_reproduce_published_model(case, poc, gains):
    expected = load_file(SHARED / "parity/dcvc_tcm_intra.safetensors")
    codec = create_model("dcvc-tcm-intra")
    _load_parameters("intra", codec.intra, DCVCTCMIntra.convert(checkpoint(gains))["intra"])
    x, coder = formula().formula_video(5, 192, 256, seed=0)[poc : poc + 1], RateEstimator()
    with torch.no_grad():
        picture = codec.intra(x, (), coder, FrameInfo((192, 256), torch.zeros(1), FramePlan(0, FrameType.I)))
    bpp = sum(coder.bits.values()) / (192 * 256)
    torch.testing.assert_close(picture.x_hat, expected[f"{case}.x_hat"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bpp, expected[f"{case}.bpp"], rtol=1e-4, atol=0)
