"""The loop: frames in coding order, the decoded picture buffer (DPB) and the feature cache."""

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..entropy.coder import LatentCoder
from ..gop import FramePlan, FrameType
from .picture import CodedFrame, FrameInfo, FrameNetwork, Picture


class Source(Protocol):
    """Where the loop finds the pictures to code."""

    @property
    def size(self) -> tuple[int, int]:
        """Padded height and width."""

    def __call__(self, poc: int, /) -> Tensor | None:
        """The padded picture `(B, 3, H, W)` at `poc`; None at the decoder."""


class Stored(NamedTuple):
    """An entry of the DPB."""

    picture: Picture
    plan: FramePlan


DecodedPictureBuffer = MutableMapping[int, Stored]


class Networks(Protocol):
    """What the loop asks of a codec."""

    def network(self, frame_type: FrameType) -> FrameNetwork:
        """The network that codes frames of this type."""


def keep(picture: Picture) -> Picture:
    """The boundary that changes nothing."""
    return picture


def code_sequence(
    codec: Networks,
    source: Source,
    plans: Iterable[FramePlan],
    coder_for: Callable[[FramePlan], LatentCoder],
    rate: Tensor | Callable[[FramePlan], Tensor],
    *,
    dpb: DecodedPictureBuffer | None = None,
    boundary: Callable[[Picture], Picture] = keep,
    cache: bool = True,
) -> Iterator[CodedFrame]:
    """Code frames one by one: estimating, writing or reading, whatever the coders do.

    Args:
        codec: gives the network of a frame type.
        source: gives the pictures, and None at the decoder.
        plans: in coding order; may be lazy.
        coder_for: a new coder for a frame, asked just before the frame is coded.
        rate: `(B,)` coordinate on the model's anchors, or a function of the plan.
        dpb: pictures decoded before, by POC; taken as they are. The loop adds to it and drops what a plan releases.
        boundary: applied to each picture as it enters the DPB, to cut gradients.
        cache: compute a reference's features once per picture; otherwise once per use. The results are bit-equal.

    Yields:
        Frames in coding order.

    Raises:
        ValueError: where a plan refers to a picture that is not in the DPB.
    """
    dpb = {} if dpb is None else dpb
    features: dict[int, Any] = {}
    for plan in plans:
        network = codec.network(plan.frame_type)
        references = tuple(
            None if poc is None else _reference(network, poc, plan, dpb, features if cache else {})
            for poc in plan.references
        )
        coder = coder_for(plan)
        info = FrameInfo(source.size, rate(plan) if callable(rate) else rate, plan)
        picture = network(source(plan.poc), references, coder, info)
        shown = picture.x_hat.clamp(0, 1)
        dpb[plan.poc] = Stored(boundary(picture._replace(x_hat=shown)), plan)
        del references
        for poc in plan.release:
            dpb.pop(poc, None)
            features.pop(poc, None)
        yield CodedFrame(plan, shown, picture.x_hat, picture.motion, coder)


def _reference(
    network: FrameNetwork, poc: int, plan: FramePlan, dpb: DecodedPictureBuffer, features: dict[int, Any]
) -> Any:
    if poc not in dpb:
        raise ValueError(
            f"frame {plan.poc} refers to frame {poc}, which is not in the DPB (it holds {sorted(dpb)}); "
            "code frames in the order of the plans and seed the DPB with what came before"
        )
    if poc not in features:
        features[poc] = network.reference(*dpb[poc])
    return features[poc]
