"""Fusion of contexts: coarse to fine, with a long-term hidden state, and of two kinds."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv import Conv2d, PointwiseConv, ResidualBlock, SubpixelConv
from .pyramid import FeaturePyramid


class MultiScaleContextFusion(nn.Module):
    """Let coarse contexts mend finer ones, as in DCVC-DC (reference sheet, section 3.4).

    Args:
        channels: widths at full, half and quarter size.
        up_kernel: kernel of the sub-pixel upsampling; 3 in DCVC-DC, 1 in the light form that BiECVC uses here.
    """

    def __init__(self, channels: tuple[int, int, int], up_kernel: int = 3):
        super().__init__()
        full, half, quarter = channels
        self.up3 = nn.Sequential(SubpixelConv(quarter, half, up_kernel), ResidualBlock(half))
        self.out3 = nn.Sequential(Conv2d(quarter, quarter), ResidualBlock(quarter))
        self.up2 = nn.Sequential(SubpixelConv(2 * half, full, up_kernel), ResidualBlock(full))
        self.out2 = nn.Sequential(Conv2d(2 * half, half), ResidualBlock(half))
        self.out1 = nn.Sequential(Conv2d(2 * full, full), ResidualBlock(full))

    def forward(self, contexts: list[Tensor]) -> list[Tensor]:
        """Refine `[(B, C0, H, W), (B, C1, H/2, W/2), (B, C2, H/4, W/4)]`; the result has the same shapes."""
        full, half, quarter = contexts
        middle = torch.cat([self.up3(quarter), half], dim=1)
        top = torch.cat([self.up2(middle), full], dim=1)
        return [full + self.out1(top), half + self.out2(middle), quarter + self.out3(quarter)]


class ContextRefinement(nn.Module):
    """HRefine of L-STEC (arXiv 2512.12790, Eq. 10 and 11): contexts refined by a recurrent hidden state.

    The paper leaves its layers open. CHOICE: "full" gives the hidden state a pyramid and a coarse-to-fine fusion of its
    own, then joins it at each scale by one convolution; "light" has two strided convolutions and a skip.

    Args:
        channels: widths at full, half and quarter size; the hidden state has the first.
        form: see above.
    """

    def __init__(self, channels: tuple[int, int, int], form: Literal["full", "light"] = "full"):
        super().__init__()
        full, half, quarter = channels
        self.form = form
        if form == "full":
            self.pyramid = FeaturePyramid(channels)
            self.fusion = MultiScaleContextFusion(channels)
        else:
            self.down2 = Conv2d(full, half, stride=2)
            self.down3 = Conv2d(half, quarter, stride=2)
        self.join = nn.ModuleList(Conv2d(2 * width, width) for width in channels)

    def spread(self, hidden: Tensor) -> list[Tensor]:
        """A hidden state `(B, C0, H, W)` at the three scales of the contexts."""
        if self.form == "full":
            scales: list[Tensor] = self.fusion(self.pyramid(hidden))
            return scales
        half = F.leaky_relu(self.down2(hidden), 0.1)
        return [hidden, half, F.leaky_relu(self.down3(half), 0.1)]

    def forward(self, contexts: list[Tensor], hidden: list[Tensor]) -> list[Tensor]:
        """Refined contexts `[(B, C0, H, W), (B, C1, H/2, W/2), (B, C2, H/4, W/4)]`; `hidden` is what `spread` gave."""
        pairs = zip(self.join, contexts, hidden, strict=True)
        joined = [join(torch.cat([context, state], dim=1)) for join, context, state in pairs]
        return joined if self.form == "full" else [c + j for c, j in zip(contexts, joined, strict=True)]


class InceptionFusion(nn.Module):
    """Fuses a spatial and a temporal context by kernels of several sizes and pooling (L-STEC, Eq. 12).

    CHOICE: four branches of half the width, and a skip from the temporal context, so that the block starts near the
    path that is known to work.

    Args:
        channels: C of each context, even.
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = channels // 2
        self.branch1 = PointwiseConv(2 * channels, inner)
        self.branch3 = nn.Sequential(PointwiseConv(2 * channels, inner), nn.LeakyReLU(0.1), Conv2d(inner, inner))
        self.branch5 = nn.Sequential(PointwiseConv(2 * channels, inner), nn.LeakyReLU(0.1), Conv2d(inner, inner, 5))
        self.pooled = PointwiseConv(2 * channels, inner)
        self.out = PointwiseConv(4 * inner, channels)

    def forward(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        """Fused context `(B, C, H, W)` of two of the same shape."""
        both = torch.cat([spatial, temporal], dim=1)
        pooled = self.pooled(F.max_pool2d(both, 3, stride=1, padding=1))
        branches = torch.cat([self.branch1(both), self.branch3(both), self.branch5(both), pooled], dim=1)
        return temporal + self.out(F.leaky_relu(branches, 0.1))
