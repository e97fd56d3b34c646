"""Activation checkpointing with the decoded picture buffer as boundary.

Between two frames only what the DPB holds is kept; a frame's inside, and the features of each reference, are computed
again while back-propagating. Both units are pure, so the second computation equals the first bit for bit.
"""

from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..codec.picture import FrameInfo, FrameNetwork, Picture
from ..codec.sequence import Networks
from ..entropy.coder import LatentCoder, Noise, RateEstimator
from ..gop import FramePlan, FrameType


def estimate_frame(
    network: FrameNetwork, x: Tensor | None, references: tuple[Any, ...], info: FrameInfo, noise: Noise | None
) -> tuple[Picture, dict[str, Tensor]]:
    """Code a frame with an estimator of its own: a pure function, the unit of checkpointing.

    Returns:
        The picture, and estimated bits by latent name, `(B,)` each.
    """
    coder = RateEstimator(noise)
    picture = network(x, references, coder, info)
    return picture, coder.bits


class CheckpointedNetwork:
    """A frame network whose two functions keep no activations; coders must be `RateEstimator`."""

    def __init__(self, network: FrameNetwork):
        self.network = network

    def reference(self, picture: Picture, plan: FramePlan) -> Any:
        """See `FrameNetwork.reference`."""
        return checkpoint(self.network.reference, picture, plan, use_reentrant=False, preserve_rng_state=False)

    def __call__(self, x: Tensor | None, references: tuple[Any, ...], coder: LatentCoder, info: FrameInfo) -> Picture:
        """See `FrameNetwork.__call__`."""
        assert isinstance(coder, RateEstimator)
        arguments = (self.network, x, references, info, coder.noise)
        picture: Picture
        picture, bits = checkpoint(estimate_frame, *arguments, use_reentrant=False, preserve_rng_state=False)
        coder.bits.update(bits)
        return picture


class CheckpointedNetworks:
    """A codec to give to `code_sequence` in place of one that would keep every activation."""

    def __init__(self, codec: Networks):
        self.codec = codec

    def network(self, frame_type: FrameType) -> FrameNetwork:
        """The checkpointed network of a frame type."""
        return CheckpointedNetwork(self.codec.network(frame_type))
