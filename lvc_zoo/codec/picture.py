"""What passes between the loop and the networks."""

from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..entropy.coder import LatentCoder
from ..gop import FramePlan


class Picture(NamedTuple):
    """A decoded frame and what a network keeps of it.

    Attributes:
        x_hat: `(B, 3, H, W)` in the network's colour space, unclamped as the network returns it, clamped to [0, 1] in
            the decoded picture buffer.
        state: the model's own NamedTuple of tensors; None after an I frame.
        motion: decoded flows by role, `(B, 2, H, W)` in pixels; () where motion is implicit.
    """

    x_hat: Tensor
    state: Any = None
    motion: tuple[Tensor, ...] = ()


class FrameInfo(NamedTuple):
    """What a frame function knows besides pictures.

    Attributes:
        size: padded height and width; an I frame's decoder has no other source for it.
        rate: `(B,)` float, the coordinate on the model's anchors.
        plan: the frame's plan.
    """

    size: tuple[int, int]
    rate: Tensor
    plan: FramePlan

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """`(B, H / 16, W / 16)`."""
        return self.rate.shape[0], self.size[0] // 16, self.size[1] // 16


class FrameNetwork(Protocol):
    """A model: one frame function, and what it makes of a reference whoever reads it."""

    def reference(self, picture: Picture, plan: FramePlan) -> Any:
        """Features of a reference; `plan` is the referenced picture's own."""

    def __call__(
        self, x: Tensor | None, references: tuple[Any | None, ...], coder: LatentCoder, info: FrameInfo
    ) -> Picture:
        """Code one frame; `x (B, 3, H, W)` is None at the decoder."""


class CodedFrame(NamedTuple):
    """One step of the loop.

    Attributes:
        plan: what was coded.
        x_hat: `(B, 3, H, W)`, clamped to [0, 1]: what references and output see.
        x_hat_raw: the same before clamping, for the loss.
        motion: decoded flows by role.
        coder: the frame's coder, holding its bits.
    """

    plan: FramePlan
    x_hat: Tensor
    x_hat_raw: Tensor
    motion: tuple[Tensor, ...]
    coder: LatentCoder
