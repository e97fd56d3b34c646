"""Validation by estimated rates, test by decoded bytes, prediction of streams: what is the same for every codec."""

import io
from collections.abc import Mapping

import lightning as L
import torch
from torch import Tensor, nn

from ..codec.reader import TensorReader
from ..codec.video import DEFAULT_Q, MAX_Q, PARTS, VideoCodec
from ..color import ColorSpec
from ..data.datasets import TrainingClip
from ..gop import GopStructure
from ..metrics import MSSSIM, PSNR, PSNRYUV, BitsPerPixel, MeanMetric, RDCurve, RDCurveMetric, psnr_db
from .losses import DistortionName, anchor_balance, distortion_of, distortion_weights

SPEC = ColorSpec(matrix="bt709", full_range=True, chroma="444")
"""How validation turns RGB into YCbCr."""


class Measures(nn.Module):
    """Rate by part and quality over all anchors, and the curve through the anchors; states reduce over processes.

    Args:
        anchors: number of anchors.
        parts: of the bits.
        reference: see `RDCurveMetric`.
    """

    def __init__(self, anchors: int, parts: tuple[str, ...], reference: RDCurve | None):
        super().__init__()
        self.rate = BitsPerPixel(parts)
        self.psnr = PSNR()
        self.yuv = PSNRYUV(SPEC)
        self.structure = MSSSIM()
        self.curve = RDCurveMetric(anchors, reference)

    def update(self, anchor: int, x_hat: Tensor, x: Tensor, bits: Mapping[str, Tensor | float]) -> None:
        """Adds a clip, decoded and source `(T, 3, H, W)` in [0, 1], with its bits by part."""
        pixels = x.shape[0] * x.shape[-2] * x.shape[-1]
        self.rate.update(bits, pixels)
        for metric in (self.psnr, self.yuv, self.structure):
            metric.update(x_hat, x)
        total = torch.stack([torch.as_tensor(value, dtype=torch.float64).sum().cpu() for value in bits.values()]).sum()
        self.curve.update(anchor, total / pixels, psnr_db(x_hat, x).mean())

    def values(self, suffix: str) -> dict[str, Tensor]:
        """Values to log: rates and what follows from them end in `suffix`; MS-SSIM only where pictures are large."""
        rates = {f"bpp_{part}": value for part, value in self.rate.compute().items()}
        quality = {"psnr_rgb_db": self.psnr.compute()}
        quality |= {f"{name}_db": value for name, value in self.yuv.compute().items()}
        for name, value in self.curve.compute().items():
            (quality if name.startswith("psnr") else rates)[name] = value
        quality["ms_ssim"] = self.structure.compute()
        values = {f"{name}{suffix}": value for name, value in rates.items()} | quality
        return {name: value.float() for name, value in values.items() if not value.isnan()}

    def reset(self) -> None:
        """Forget everything."""
        for metric in (self.rate, self.psnr, self.yuv, self.structure, self.curve):
            metric.reset()


class MeasuredTask(L.LightningModule):
    """A codec with the loops that measure it.

    Args:
        codec: the codec.
        distortion: of the validation loss.
        reference_curve: validation and test log the BD-rate against it.
    """

    def __init__(self, codec: VideoCodec, distortion: DistortionName = "mse", reference_curve: RDCurve | None = None):
        super().__init__()
        self.codec = codec
        self.distortion: DistortionName = distortion
        anchors = len(codec.lambdas)
        self.estimated = Measures(anchors, PARTS, reference_curve)
        self.estimated_loss = MeanMetric()
        self.coded = Measures(anchors, (*PARTS, "framing"), reference_curve)

    def anchor_q(self, anchor: int) -> float:
        """The rate point of an anchor."""
        anchors = len(self.codec.lambdas)
        return DEFAULT_Q if anchors == 1 else anchor * MAX_Q / (anchors - 1)

    def measured_structure(self, num_frames: int) -> GopStructure:
        """Structure under which a clip of that length is validated and tested: the codec's own."""
        return self.codec.default_structure

    # ---- validation: estimates

    def validation_step(self, batch: TrainingClip, batch_index: int) -> None:
        """Code clips `(B, T, 3, H, W)` at every anchor with estimated bits."""
        clip = batch.frames
        weights = torch.tensor(distortion_weights(self.distortion, self.codec.lambdas), device=clip.device)
        balance = anchor_balance(weights)
        losses = []
        for anchor in range(len(weights)):
            output = self.codec(clip, self.anchor_q(anchor), self.measured_structure(clip.shape[1]))
            for i, x in enumerate(clip):
                bits = {part: value[i].sum() for part, value in output.bits.items()}
                self.estimated.update(anchor, output.x_hat[i], x, bits)
            error = distortion_of(self.distortion, output.x_hat.flatten(0, 1), clip.flatten(0, 1)).mean()
            losses.append(balance[anchor] * (output.bpp.mean() + weights[anchor] * error))
        self.estimated_loss.update(torch.stack(losses).mean(), weight=len(clip))

    def on_validation_epoch_end(self) -> None:
        """Log and forget."""
        self.log("val/loss_estimated", self.estimated_loss.compute())
        self.estimated_loss.reset()
        self._log(self.estimated, "val", "_estimated")

    # ---- test: bytes

    def on_test_start(self) -> None:
        """Make the entropy tables from the weights under test, which a callback may have put in place."""
        self.codec.rebuild_tables()

    def test_step(self, batch: TrainingClip, batch_index: int) -> None:
        """Compress and decompress clips at every anchor; the rate is that of the file, to the last byte."""
        for x in batch.frames:
            for anchor in range(len(self.codec.lambdas)):
                stream, bits = self.encode(x, anchor)
                self.coded.update(anchor, self.codec.decompress(stream).to(x), x, bits)

    def on_test_epoch_end(self) -> None:
        """Log and forget."""
        self._log(self.coded, "test", "")

    def encode(self, x: Tensor, anchor: int) -> tuple[bytes, dict[str, float]]:
        """The stream of a clip `(T, 3, H, W)`, and its bits by part; "framing" is all that no latent accounts for."""
        file, bits = io.BytesIO(), dict.fromkeys(PARTS, 0.0)
        reader, structure = TensorReader(x), self.measured_structure(len(x))
        for _, record in self.codec.encode_frames(reader, file, round(self.anchor_q(anchor)), structure):
            for part, value in record.bits.items():
                bits[part] += value
        return file.getvalue(), bits | {"framing": 8 * len(file.getvalue()) - sum(bits.values())}

    # ---- prediction: streams

    def on_predict_start(self) -> None:
        """See `on_test_start`."""
        self.codec.rebuild_tables()

    def predict_step(self, batch: TrainingClip, batch_index: int) -> list[list[bytes]]:
        """Streams of clips `(B, T, 3, H, W)`: for each clip one at each anchor, lowest rate first."""
        anchors = range(len(self.codec.lambdas))
        return [[self.encode(x, anchor)[0] for anchor in anchors] for x in batch.frames]

    def _log(self, measures: Measures, prefix: str, suffix: str) -> None:
        values = {f"{prefix}/{name}": value for name, value in measures.values(suffix).items()}
        self.log_dict(values, sync_dist=True)
        measures.reset()
