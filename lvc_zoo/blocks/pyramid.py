"""Features of a picture at several sizes."""

from torch import Tensor, nn

from .conv import Conv2d, ResidualBlock


class FeaturePyramid(nn.Module):
    """Features of a reference at full, half and quarter size.

    Args:
        channels: widths of the three scales.
        light: the full scale passes unchanged (BiECVC, CHOICE H2 of the reference sheet); otherwise it has a
            convolution and a residual block of its own (DCVC-DC).
    """

    def __init__(self, channels: tuple[int, int, int], *, light: bool = False):
        super().__init__()
        full, half, quarter = channels
        self.scale0 = nn.Identity() if light else nn.Sequential(Conv2d(full, full), ResidualBlock(full))
        self.scale1 = nn.Sequential(Conv2d(full, half, stride=2), ResidualBlock(half))
        self.scale2 = nn.Sequential(Conv2d(half, quarter, stride=2), ResidualBlock(quarter))

    def forward(self, feature: Tensor) -> list[Tensor]:
        """`[(B, C0, H, W), (B, C1, H/2, W/2), (B, C2, H/4, W/4)]` of a feature `(B, C0, H, W)`."""
        full = self.scale0(feature)
        half = self.scale1(full)
        return [full, half, self.scale2(half)]
