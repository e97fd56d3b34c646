"""Offset diversity: a reference feature sampled several times around its flow (DCVC-DC, arXiv 2302.14402, Sec. 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .activation import sigmoid
from .conv import Conv2d
from .motion import warp


class OffsetDiversity(nn.Module):
    """Warps groups of channels by several flows near the decoded one and weighs what they bring.

    Every group of channels is warped `offsets` times, each time by its own flow and scaled by its own mask. A grouped
    1x1 convolution then mixes `offsets` neighbouring warps, which come from neighbouring groups (cross-group fusion).

    Args:
        channels: C of the feature, a multiple of `groups`.
        groups: of channels.
        offsets: flows of each group.
        width: inner channels of the network that predicts offsets and masks.
        reach: largest magnitude of an offset, pixels.
    """

    def __init__(self, channels: int, groups: int = 16, offsets: int = 2, width: int = 64, reach: float = 40.0):
        super().__init__()
        if channels % groups:
            raise ValueError(f"{channels} channels do not split into {groups} groups; expected a multiple")
        self.groups = groups
        self.offsets = offsets
        self.reach = reach
        self.predict = nn.Sequential(
            Conv2d(channels + 5, width, stride=2),
            nn.LeakyReLU(0.1),
            Conv2d(width, width),
            nn.LeakyReLU(0.1),
            Conv2d(width, 3 * groups * offsets),
        )
        self.fusion = Conv2d(offsets * channels, channels, kernel_size=1, groups=groups)

    def forward(self, feature: Tensor, warped: Tensor, flow: Tensor) -> Tensor:
        """Aligned feature `(B, C, H, W)`.

        Args:
            feature: of the reference, `(B, C, H, W)`, H and W even.
            warped: the feature and its picture, both warped by the flow: `(B, C + 3, H, W)`.
            flow: `(B, 2, H, W)`, pixels.
        """
        batch, _, height, width = feature.shape
        samples = self.groups * self.offsets
        predicted = self.predict(torch.cat([warped, flow], dim=1))
        predicted = F.interpolate(predicted, scale_factor=2, mode="bilinear", align_corners=False)
        offset, mask = predicted.split([2 * samples, samples], dim=1)
        flows = self.reach * torch.tanh(offset) + flow.repeat(1, samples, 1, 1)
        # channels are repeated before samples join the batch, or a batch would mix its pictures
        chunks = feature.repeat(1, self.offsets, 1, 1).reshape(batch * samples, -1, height, width)
        sampled = warp(chunks, flows.reshape(batch * samples, 2, height, width))
        sampled = sampled * sigmoid(mask).reshape(batch * samples, 1, height, width)
        return self.fusion(sampled.reshape(batch, -1, height, width))
