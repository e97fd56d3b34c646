"""What several test files share."""

import pytest
import torch
from PIL import Image

from lvc_zoo import create_model
from tests.miniature import moving_clip


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory):
    """A folder of untrained weights of `biecvc-tiny`."""
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    torch.manual_seed(0)
    create_model("biecvc-tiny").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def png_clip(tmp_path_factory):
    """A folder of five pictures, 50 wide and 34 high."""
    folder = tmp_path_factory.mktemp("clip")
    for poc, frame in enumerate(moving_clip(5, 34, 50)):
        codes = (frame * 255).round().to(torch.uint8).permute(1, 2, 0)
        Image.fromarray(codes.numpy()).save(folder / f"{poc}.png")
    return folder
