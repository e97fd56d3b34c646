"""A very small BiECVC with stand-in weights that make every quadtree step work hard, and a decoder process.

Run as a program it decodes files and prints digests: `python -m tests.miniature THREADS CACHE FILE ...`.
"""

import hashlib
import json
import sys
import zlib
from pathlib import Path

import torch
from torch import Tensor, nn

from lvc_zoo.blocks.conv import DepthConvBlock
from lvc_zoo.models.biecvc import BiECVC, BiECVCConfig
from lvc_zoo.models.dcvc_intra import DCVCIntraConfig

CONFIG = BiECVCConfig(
    intra=DCVCIntraConfig(widths=(8, 12, 16), latent=64, hyper=8, refine_widths=(4, 4, 8), refine_depth=1, gated=False),
    features=(8, 8, 16),
    current=(8, 8, 16),
    latent=64,
    hyper=8,
    motion=16,
    head_dim=8,
    spynet_widths=(8, 8, 8, 8),
    spynet_kernel=3,
    unet_widths=(8, 8, 8),
    unet_depth=1,
    unets=1,
)


def miniature() -> BiECVC:
    """The codec; its weights are functions of their names, loud in the parameter networks and in the latents."""
    codec = BiECVC(CONFIG)
    codec.variant = "miniature"
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            if not name.endswith(("basic", "scale")):
                spread = parameter[0].numel() ** -0.5 if parameter.dim() == 4 and parameter.shape[0] > 1 else 0.1
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        latents = (codec.inter.latents, codec.inter.motion.latents)
        fusions = [codec.intra.hyper.synthesis[-1], *(part.fusion[-1] for part in latents)]
        quadtrees = [codec.intra.quadtree, *(part.quadtree for part in latents)]
        for fusion, quadtree in zip(fusions, quadtrees, strict=True):
            spread_scales(fusion, 1 / 3, 1 / 3)
            for network in quadtree.networks:
                spread_scales(network[-1], 0.0, 1 / 2)
        for last in (codec.intra.analysis2[-1], codec.inter.encoder.down4, codec.inter.motion.encoder.down3[-1]):
            last.weight *= 40
        for picture in (codec.intra.refine[-1], codec.inter.reconstruction.picture):
            picture.weight *= 0.002  # keeps most pixels off the clamp, so that errors would show
            picture.bias.fill_(0.5)
    return codec.eval()


def spread_scales(block: DepthConvBlock, start: float, share: float) -> None:
    """Give the outputs of a parameter network that are scales magnitudes from 0.01 to 30, evenly in the logarithm."""
    channels = block.ffn.conv2.out_channels
    rows = slice(round(start * channels), round((start + share) * channels))
    count = rows.stop - rows.start
    factor = torch.logspace(-2, 1.5, count)[torch.arange(count) * 7 % count]
    for layer in (block.spatial.conv2, block.spatial.skip, block.ffn.conv2):
        if not isinstance(layer, nn.Identity):
            layer.weight[rows] *= factor.view(-1, 1, 1, 1)
            layer.bias[rows] *= factor


def moving_clip(num_frames: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth drifting texture, `(T, 3, H, W)` in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.rand(3, 5, 2, generator=generator) * 0.3
    phase = torch.rand(3, 5, generator=generator) * 6.3
    velocity = torch.rand(5, 2, generator=generator) * 3 - 1.5
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    frames = []
    for t in range(num_frames):
        moved = torch.stack([y + velocity[:, 0, None, None] * t, x + velocity[:, 1, None, None] * t])
        waves = torch.sin(torch.einsum("cki,ikyx->ckyx", frequency, moved) + phase[:, :, None, None])
        frames.append(0.5 + 0.5 * waves.mean(dim=1))
    return torch.stack(frames).clamp(0, 1)


class Digests:
    """SHA-256 of table indices, of symbols, of decoded latents, and of pictures."""

    def __init__(self) -> None:
        self.parts = {kind: hashlib.sha256() for kind in ("index", "symbols", "y_hat", "frames")}

    def log(self, name: str, index: object, symbols: object, y_hat: Tensor) -> None:
        """A coder's log."""
        self.parts["index"].update(name.encode() + index.tobytes())  # type: ignore[attr-defined]
        self.parts["symbols"].update(symbols.tobytes())  # type: ignore[attr-defined]
        self.parts["y_hat"].update(y_hat.contiguous().numpy().tobytes())

    def frames(self, frames: Tensor) -> None:
        """Decoded pictures in display order."""
        self.parts["frames"].update(frames.contiguous().numpy().tobytes())

    def hex(self) -> dict[str, str]:
        """All digests."""
        return {kind: digest.hexdigest() for kind, digest in self.parts.items()}


def main(threads: str, cache: str, *paths: str) -> None:
    """Decode files with a given number of threads and print their digests as JSON."""
    torch.set_num_threads(int(threads))
    codec, results = miniature(), []
    for path in paths:
        digests = Digests()
        digests.frames(torch.stack(list(codec.decode(Path(path), cache=cache == "cache", log=digests.log))))
        results.append(digests.hex())
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
