"""Coarse-to-fine fusion of warped features."""

import torch
from torch import Tensor, nn

from .conv import Conv2d, ResidualBlock, SubpixelConv


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
