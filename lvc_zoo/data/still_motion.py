"""Clips made from stills: a smooth camera path over a picture, and occluders that cross it on paths of their own."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .footage import Footage, Window

LENGTH = 1 << 20
"""Frames of a moving still: more than any clip takes."""
SLOWEST, FASTEST = 0.05, 8.0
"""Pixels a frame; the speed is even in the logarithm."""
MOST_SHRINKING = 2.0
EDGE = 1.5
"""Width in pixels of an occluder's soft edge."""


@dataclass(frozen=True, slots=True)
class MovingStill(Footage):
    """A clip of any length from one frame of other footage.

    CHOICE: papers that train on stills say little of the motion. Here each layer (the picture, then up to `occluders`
    ellipses textured by other places of it) has a constant velocity, turn and zoom plus a slow oscillation. The picture
    is shrunk before it moves where it is large enough, which removes coding artefacts and keeps detail as fine as a
    pixel; beyond its border it is mirrored.

    Attributes:
        still: the footage; any frame of it may be taken.
        occluders: at most so many.
    """

    still: Footage | None = None
    occluders: int = 2

    @classmethod
    def of(cls, still: Footage, occluders: int = 2) -> "MovingStill":
        """A moving still of each frame of `still`."""
        return cls(still.name, LENGTH, still.height, still.width, (), still, occluders)

    def read(self, times: range, window: Window, random: np.random.Generator) -> np.ndarray:
        """See `Footage`; the window says where in the picture the camera is in the middle of the clip."""
        assert self.still is not None
        shrink = random.uniform(1, np.clip(min(self.height, self.width) / (1.5 * window.height), 1, MOST_SHRINKING))
        area = self._around(window, shrink)
        frame = int(random.integers(self.still.num_frames))
        codes = self.still.read(range(frame, frame + 1), area, random)[0]
        picture = torch.from_numpy(np.array(codes)).permute(2, 0, 1)[None].float() / 255
        size = [round(side / shrink) for side in picture.shape[-2:]]
        picture = F.interpolate(picture, size=size, mode="bilinear", antialias=True, align_corners=False)[0]
        time = torch.tensor([float(t - times.start) for t in times])
        anchor = torch.tensor(
            [window.left - area.left + window.width / 2, window.top - area.top + window.height / 2]
        ) / torch.tensor(shrink)
        clip = _move(picture, anchor.float(), time - time.mean(), (window.height, window.width), random, self.occluders)
        return (clip * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    def _around(self, window: Window, shrink: float) -> Window:
        """The window, widened so that the camera has room to move."""
        top, left = (
            round(a - shrink * side / 2) for a, side in ((window.top, window.height), (window.left, window.width))
        )
        bottom, right = (
            round(a + side + shrink * side / 2)
            for a, side in ((window.top, window.height), (window.left, window.width))
        )
        top, left = max(top, 0), max(left, 0)
        return Window(top, left, min(bottom, self.height) - top, min(right, self.width) - left)


def _move(
    picture: Tensor, anchor: Tensor, time: Tensor, size: tuple[int, int], random: np.random.Generator, occluders: int
) -> Tensor:
    """Frames `(T, 3, h, w)` in [0, 1] of a picture `(3, H, W)`; `anchor` is (x, y) of the middle frame's centre."""
    clip = _sample(picture, anchor + _path(time, size, random))
    for _ in range(int(random.integers(occluders + 1))):
        centre = torch.tensor([random.uniform(-0.5, 0.5) * size[1], random.uniform(-0.5, 0.5) * size[0]])
        radii = torch.tensor(random.uniform(0.06, 0.35, 2) * min(size))
        path = _path(time, size, random) - centre.float()
        texture = torch.tensor([random.uniform(0, side) for side in picture.shape[:0:-1]])
        # distance from the edge, in about pixels, negative inside
        distance = ((path / radii).square().sum(dim=-1).sqrt() - 1) * radii.min()
        cover = (0.5 - distance / EDGE).clamp(0, 1).float()[:, None]
        clip = cover * _sample(picture, texture.float() + path) + (1 - cover) * clip
    return clip


def _path(time: Tensor, size: tuple[int, int], random: np.random.Generator) -> Tensor:
    """Where each pixel of a frame comes from, `(T, h, w, 2)` in pixels (x, y) from the layer's centre."""
    speed, heading = np.exp(random.uniform(np.log(SLOWEST), np.log(FASTEST))), random.uniform(0, 2 * np.pi)
    shift = time[:, None] * torch.tensor([np.cos(heading), np.sin(heading)]) * speed
    # what moves slowly turns, zooms and swings little
    pace = min(speed, 1.0)
    swing = pace * torch.tensor(random.uniform(-3, 3, 2)), torch.tensor(random.uniform(0, 2 * np.pi, 2))
    shift = shift + swing[0] * torch.sin(2 * np.pi * time[:, None] / random.uniform(8, 40) + swing[1])
    # CHOICE: degrees and per cent a frame with these deviations; bounded, for long clips
    angle = np.deg2rad(30) * torch.tanh(time * pace * random.normal(0, np.deg2rad(0.4)) / np.deg2rad(30))
    zoom = torch.exp(0.3 * torch.tanh(time * pace * random.normal(0, 0.004) / 0.3))
    y, x = torch.meshgrid(*(torch.arange(side) - (side - 1) / 2 for side in size), indexing="ij")
    grid = torch.stack([x, y], dim=-1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2) * zoom[:, None, None]
    return (torch.einsum("tij,hwj->thwi", turn.float(), grid) + shift[:, None, None].float()).float()


def _sample(picture: Tensor, where: Tensor) -> Tensor:
    """A picture `(3, H, W)` at places `(T, h, w, 2)` in pixels, mirrored beyond its border."""
    size = torch.tensor(picture.shape[:0:-1])
    grid = 2 * where / size - 1
    pictures = picture.expand(len(where), -1, -1, -1)
    return F.grid_sample(pictures, grid, mode="bicubic", padding_mode="reflection", align_corners=False).clamp(0, 1)
