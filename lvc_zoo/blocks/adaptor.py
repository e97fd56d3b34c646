"""Adaptors of what a reference hands on, chosen by the place of the frame that reads it (DCVC-DC, arXiv 2302.14402)."""

from torch import Tensor, nn

from .conv import Conv2d, PointwiseConv

QUALITY_CLASSES = (0, 1, 0, 2)
"""Class of a P frame by its position modulo 4: the hierarchical quality that the training loss's weights make."""


class QualityAdaptor(nn.Module):
    """Input of a context network: from the picture after an I frame, else from the feature by quality class.

    Args:
        channels: C of the result.
        in_channels: of the propagated feature; None is C.
    """

    def __init__(self, channels: int, in_channels: int | None = None):
        super().__init__()
        self.intra = Conv2d(3, channels)
        self.inter = nn.ModuleList(PointwiseConv(in_channels or channels, channels) for _ in set(QUALITY_CLASSES))

    def forward(self, picture: Tensor, feature: Tensor | None, position: int) -> Tensor:
        """Adapted feature `(B, C, H, W)`.

        Args:
            picture: the reference, `(B, 3, H, W)`.
            feature: what it propagates, `(B, in, H, W)`; None after an I frame.
            position: of the frame that reads it, counted from the I frame that opens its GOP.
        """
        if feature is None:
            return self.intra(picture)
        return self.inter[QUALITY_CLASSES[position % len(QUALITY_CLASSES)]](feature)
