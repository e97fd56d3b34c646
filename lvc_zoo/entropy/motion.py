"""Motion of the DCVC family: flows estimated, coded and decoded (DCVC-DC, arXiv 2302.14402, Sec. 3.1)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..blocks.dcvc import MotionDecoder, MotionEncoder, initialise_unit_gain, quieten
from ..blocks.gain import RateGain, RateRule, coefficient_gains, feature_gains
from ..blocks.motion import SpyNet
from ..blocks.precision import at_least_float32
from ..blocks.transform import BlockTransform, LatentScale, soft_limit
from .coder import LatentCoder
from .context import ConditionalQuadtree

FLOW_WEIGHT = 0.0075
"""CHOICE: squared error, summed over colours, that a flow error of one pixel makes: three colours times a mean squared
gradient of 0.05 squared. It sets only where the gains of the shortcut start."""


class MotionState(NamedTuple):
    """What the motion of later frames reads.

    Attributes:
        y_hat: motion latent as networks see it, `(B, C, H/16, W/16)`.
        feature: of the motion decoder, `(B, C, H/4, W/4)`.
    """

    y_hat: Tensor
    feature: Tensor


class MotionCodec(nn.Module):
    """Flows from a picture to its references through a latent.

    Args:
        estimator: the flow network, run by the encoder alone.
        channels: C, inner and latent width, a multiple of 4.
        lambdas: rate-distortion weight of each anchor.
        references: number of flows; as many states may be known.
        layers: number of temporal layers with gains of their own.
        rule: of the gains, see `blocks.gain.RateGain`.
        width: see `ConditionalQuadtree`; None is the official form.
        shortcut: code the flows' block transform, which the networks only correct; needs `width`. CHOICE of ours for
            small models: otherwise flows mean nothing until the codec is trained, and their rate presses them to zero.
    """

    def __init__(
        self,
        estimator: nn.Module,
        channels: int,
        lambdas: tuple[float, ...],
        *,
        references: int = 1,
        layers: int = 1,
        rule: RateRule = "anchors",
        width: int | None = None,
        shortcut: bool = False,
    ):
        super().__init__()
        if shortcut and width is None:
            raise ValueError("a motion shortcut needs the small parameter networks; give their width")
        scales = (1.0,) * len(lambdas) if shortcut else feature_gains(lambdas)
        self.estimator = estimator
        self.encoder_gain = RateGain(channels, scales, layers, rule)
        self.decoder_gain = RateGain(channels, tuple(1 / s for s in scales), layers, rule)
        self.encoder = MotionEncoder(2 * references, channels, references)
        self.latents = ConditionalQuadtree(
            channels,
            channels,
            known=0,
            references=references,
            inner=width or 2 * channels,
            strides=(1, 1, 2, 1, 2),
            width=width,
        )
        self.decoder = MotionDecoder(channels, 2 * references)
        self.shortcut = shortcut
        if shortcut:
            initialise_unit_gain(self)
            self.transform = BlockTransform(channels, planes=2 * references)
            self.latent_scale = LatentScale(channels, coefficient_gains(lambdas, FLOW_WEIGHT), layers)
            quieten(self.encoder.down3[-1], self.decoder.flow[-1].get_submodule("0"))
            if isinstance(estimator, SpyNet):
                quieten(*(level.get_submodule("8") for level in estimator.levels))

    def code(
        self,
        x: Tensor | None,
        pictures: Sequence[Tensor],
        states: Sequence[MotionState],
        coder: LatentCoder,
        rate: Tensor,
        layer: int = 0,
    ) -> tuple[list[Tensor], MotionState]:
        """Decoded flows, one a reference, `(B, 2, H, W)` each, and the new state.

        Args:
            x: `(B, 3, H, W)`, H and W multiples of 16; None at the decoder.
            pictures: the references, `(B, 3, H, W)` each.
            states: of those references that have one, in the order of the references.
            coder: estimates, writes or reads.
            rate: `(B,)`, coordinate on the anchors.
            layer: row of the gains.
        """
        batch, _, height, width = pictures[0].shape
        gain, unit = self.latent_scale(rate, layer) if self.shortcut else (1.0, None)
        y = None
        if x is not None:
            flows = torch.cat([self.estimator(x, picture) for picture in pictures], dim=1)
            y = self.encoder(flows, [state.feature for state in states], self.encoder_gain(rate, layer))
            y = (y + self.transform.analysis(flows)) * gain if self.shortcut else y
        shape = (batch, height // 16, width // 16)
        known = [state.y_hat for state in states]
        y_hat = self.latents.code(y, shape, coder, "motion", states=known, unit=unit)
        seen = y_hat if unit is None else soft_limit(y_hat / unit)
        flows_hat, feature = self.decoder(seen, self.decoder_gain(rate, layer))
        if self.shortcut:
            flows_hat = flows_hat + self.transform.synthesis(y_hat / gain)
        return list(at_least_float32(flows_hat).split(2, dim=1)), MotionState(seen, feature)
