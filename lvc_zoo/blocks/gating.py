"""Gated context fusion: a picture-dependent gate over everything that references offer."""

import torch
from torch import Tensor, nn

from .activation import Sigmoid
from .conv import DepthConvBlock


class GatedContextFusion(nn.Module):
    """Bidirectional context gating of BiECVC (arXiv 2505.09193, eq. 7 and 8): `sigmoid(CC(y, L, G)) * DR(L, G)`.

    Args:
        current_channels: channels of the current feature y.
        context_channels: channels of all contexts, concatenated.
        out_channels: channels of the fused context.
        gated: without it the fused context is `DR(L, G)` alone (the paper's ablation).
    """

    def __init__(self, current_channels: int, context_channels: int, out_channels: int, *, gated: bool = True):
        super().__init__()
        self.reduce = DepthConvBlock(context_channels, out_channels)
        self.gate = (
            nn.Sequential(DepthConvBlock(current_channels + context_channels, out_channels), Sigmoid())
            if gated
            else None
        )

    def forward(self, current: Tensor, context: Tensor) -> Tensor:
        """Fuse `current (B, current, H, W)` and `context (B, context, H, W)` into `(B, out, H, W)`."""
        reduced = self.reduce(context)
        if self.gate is None:
            return reduced
        return self.gate(torch.cat([current, context], dim=1)) * reduced
