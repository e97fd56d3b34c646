"""A very small low-delay codec: a recurrent state beside the picture, and weights that are loud enough to show errors.

Run as a program it is the `lvc-zoo` command of a process that knows this codec: `python -m tests.recurrent encode ...`.
"""

import sys
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvc_zoo.blocks.conv import Conv2d, PointwiseConv
from lvc_zoo.codec.picture import FrameInfo, Picture
from lvc_zoo.codec.video import VideoCodec
from lvc_zoo.entropy.coder import LatentCoder
from lvc_zoo.entropy.distributions import FactorisedPrior
from lvc_zoo.gop import FramePlan, FrameType, LowDelay


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentConfig:
    """Channels of latent and hidden state."""

    latent: int = 6
    hidden: int = 4


class RecurrentState(NamedTuple):
    """Hidden state `(B, hidden, H/4, W/4)`."""

    hidden: Tensor


class RecurrentNetwork(nn.Module):
    """Codes the difference to the frame before, which for an I frame is grey without a state."""

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.channels = config.hidden
        self.analysis = nn.Sequential(Conv2d(6, 8, stride=2), nn.LeakyReLU(0.1), Conv2d(8, config.latent, stride=2))
        self.prior = FactorisedPrior(config.latent)
        self.update = Conv2d(config.latent + config.hidden, config.hidden)
        self.synthesis = PointwiseConv(config.latent + config.hidden, 3 * 16)

    def reference(self, picture: Picture, plan: FramePlan) -> Picture:
        return picture

    def forward(
        self, x: Tensor | None, references: tuple[Picture, ...], coder: LatentCoder, info: FrameInfo
    ) -> Picture:
        height, width = info.size
        if references:
            (past,) = references
        else:
            past = Picture(self.update.weight.new_full((len(info.rate), 3, height, width), 0.5))
        shape = (len(info.rate), self.channels, height // 4, width // 4)
        hidden = past.x_hat.new_zeros(shape) if past.state is None else past.state.hidden
        gain = 2 ** info.rate.view(-1, 1, 1, 1)
        y = None if x is None else self.analysis(torch.cat([x, past.x_hat], dim=1)) * gain
        latent = (shape[0], self.prior.channels, *shape[2:])
        y_hat = coder.code(y, self.prior.distribution(latent), name="frame") / gain
        hidden = torch.tanh(self.update(torch.cat([y_hat, hidden], dim=1)))
        residual = F.pixel_shuffle(self.synthesis(torch.cat([y_hat, hidden], dim=1)), 4)
        # a step away from the clamps, so that errors show
        x_hat = 0.1 + 0.8 * past.x_hat + 0.1 * residual.contiguous(memory_format=torch.channels_last)
        return Picture(x_hat, RecurrentState(hidden) if references else None)


class Recurrent(VideoCodec):
    """The codec."""

    config_type = RecurrentConfig
    default_structure = LowDelay(32)
    frame_types = frozenset({FrameType.I, FrameType.P})

    def __init__(self, config: RecurrentConfig | None = None):
        config = config or RecurrentConfig()
        networks = {"intra": RecurrentNetwork(config), "inter": RecurrentNetwork(config)}
        super().__init__(config, lambdas=(1.0, 2.0, 4.0, 8.0), **networks)


def recurrent() -> Recurrent:
    """The codec; its weights are functions of their names."""
    codec = Recurrent()
    codec.variant = "recurrent"
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            if parameter.dim() == 4 and "prior" not in name:
                generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
                spread = 2 * parameter[0].numel() ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return codec.eval()


if __name__ == "__main__":
    from lvc_zoo.cli import main

    sys.exit(main())
