"""TensorBoard pictures of what a codec in training does with a clip."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from einops import rearrange
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from ..blocks.motion import warp
from ..codec.observe import observe
from ..codec.picture import CodedFrame
from ..codec.video import PARTS, bits_by_part
from ..data.datasets import TrainingClip
from ..gop import FramePlan
from .tasks import VideoCompressionTask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GATE = re.compile(r"gating\.decoder\.fuse\.\d\.gate")
ATTENTION = re.compile(r"(miner\.key|gating\.decoder\.query)\.\d")
ERROR_GAIN = 5
"""Errors are shown so many times larger."""


class RDPictures(L.Callback):
    """Writes pictures of the first clip of a batch to TensorBoard every so often, coded at the middle anchor.

    `pictures/coding` has source, decoded frame and error from top to bottom; `pictures/motion` flow and warping error
    by reference; `pictures/gates` the decoder's gates at full, half and quarter size; `pictures/attention` what
    non-local attention reads for a query point (the cross) in past and future; `pictures/bits` bits by frame and layer.
    What a network does not have is left out.

    Args:
        every_n_steps: distance of pictures.
        query: the query point from (0, 0), top left, to (1, 1), bottom right.
        frames: at most so many frames side by side, spread over the clip.
    """

    def __init__(self, every_n_steps: int = 500, query: tuple[float, float] = (0.5, 0.5), frames: int = 5):
        if every_n_steps < 1 or frames < 1:
            raise ValueError(f"every_n_steps is {every_n_steps} and frames {frames}, expected at least 1 each")
        if not all(0 <= place <= 1 for place in query):
            raise ValueError(f"query is {query}, expected a place from (0, 0) to (1, 1)")
        self.every_n_steps = every_n_steps
        self.query = query
        self.frames = frames

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: TrainingClip, batch_idx: int
    ) -> None:
        """Draw."""
        writers = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not writers or not trainer.is_global_zero or trainer.global_step % self.every_n_steps:
            return
        assert isinstance(pl_module, VideoCompressionTask)
        coded = code_clip(pl_module, batch.frames[:1], int(batch.stride[0]))
        for writer in writers:
            for name, picture in draw_pictures(coded, self.query, self.frames).items():
                writer.add_image(f"pictures/{name}", picture.clamp(0, 1).cpu(), trainer.global_step)
            writer.add_figure("pictures/bits", draw_bits(coded), trainer.global_step)


class CodedClip(NamedTuple):
    """A clip, coded, and what its network's modules gave on the way.

    Attributes:
        clip: source frames `(T, 3, H, W)`.
        frames: all frames in coding order, batch size 1.
        trained: those of the network in training, in coding order.
        seen: outputs by module name, one a call, of gates, keys and queries.
        head_dim: channels of an attention head; 0 without attention.
    """

    clip: Tensor
    frames: list[CodedFrame]
    trained: list[CodedFrame]
    seen: dict[str, list[Tensor]]
    head_dim: int

    def picked(self, count: int) -> list[int]:
        """Indices in `trained` of at most `count` frames, spread over the clip, in display order."""
        order = sorted(range(len(self.trained)), key=lambda i: self.trained[i].plan.poc)
        return [order[i] for i in torch.linspace(0, len(order) - 1, min(count, len(order))).round().int().tolist()]


@torch.no_grad()
def code_clip(task: VideoCompressionTask, clip: Tensor, stride: int) -> CodedClip:
    """Code a clip `(1, T, 3, H, W)` at the middle anchor, rounding as a coder would.

    Args:
        task: whose codec and plans are used.
        clip: source frames in [0, 1].
        stride: temporal distance of the frames.
    """
    names = [name for name, _ in task.network.named_modules() if GATE.fullmatch(name) or ATTENTION.fullmatch(name)]
    rate = torch.full((1,), len(task.codec.lambdas) // 2, device=clip.device, dtype=torch.float32)
    with observe(task.network, *names) as seen:
        frames = list(task.estimated_frames(clip, rate, stride))
    trained = [frame for frame in frames if frame.plan.frame_type is task.trained]
    return CodedClip(clip[0], frames, trained, seen, getattr(task.codec.config, "head_dim", 0))


def draw_pictures(coded: CodedClip, query: tuple[float, float], count: int) -> dict[str, Tensor]:
    """Pictures `(3, height, width)` in [0, 1] by name; what the network does not have is missing."""
    chosen = coded.picked(count)
    pictures = {"coding": _tile([_coding_column(coded, coded.trained[i]) for i in chosen])}
    if coded.trained[0].motion:
        pictures["motion"] = _tile([_motion_column(coded, coded.trained[i]) for i in chosen])
    gates = sorted(name for name in coded.seen if GATE.fullmatch(name))
    if gates:
        size = coded.clip.shape[-2:]
        columns = [[_grey(coded.seen[name][i][0].mean(dim=0), size) for name in gates] for i in chosen]
        pictures["gates"] = _tile(columns)
    if any(ATTENTION.fullmatch(name) for name in coded.seen):
        pictures["attention"] = _draw_attention(coded, query)
    return pictures


def _coding_column(coded: CodedClip, frame: CodedFrame) -> list[Tensor]:
    x = coded.clip[frame.plan.poc]
    return [x, frame.x_hat[0], ERROR_GAIN * (frame.x_hat[0] - x).abs()]


def _motion_column(coded: CodedClip, frame: CodedFrame) -> list[Tensor]:
    """Flow and warping error of each reference."""
    decoded = {other.plan.poc: other.x_hat for other in coded.frames}
    column = []
    for poc, flow in zip(frame.plan.references, frame.motion, strict=False):
        assert poc is not None
        error = warp(decoded[poc], flow)[0] - coded.clip[frame.plan.poc]
        column += [draw_flow(flow[0]), ERROR_GAIN * error.abs()]
    return column


def draw_flow(flow: Tensor) -> Tensor:
    """A flow `(2, H, W)` by the colour wheel: direction is hue, length saturation; the wheel itself is in the corner.

    Returns:
        `(3, H, W)`; the longest vector has full colour.
    """
    picture = _wheel_colour(flow / flow.norm(dim=0).max().clamp(min=1e-6))
    side = min(flow.shape[-2:]) // 4
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side, device=flow.device)] * 2, indexing="ij")
    wheel, inside = _wheel_colour(torch.stack([x, y])), (x**2 + y**2) <= 1
    corner = picture[:, :side, :side]
    picture[:, :side, :side] = torch.where(inside, wheel, corner)
    return picture


def _wheel_colour(vectors: Tensor) -> Tensor:
    """RGB `(3, H, W)` of vectors `(2, H, W)` no longer than 1."""
    hue = torch.atan2(vectors[1], vectors[0]) / torch.pi * 3
    saturation = vectors.norm(dim=0).clamp(max=1)
    # HSV with value 1: each colour is 1 less what the saturation takes from it
    distance = [(offset + hue) % 6 for offset in (5, 3, 1)]
    return torch.stack([1 - saturation * torch.minimum(d, 4 - d).clamp(0, 1) for d in distance])


def attention_map(attention_query: Tensor, key: Tensor, head_dim: int, place: tuple[int, int]) -> Tensor:
    """How much each position of a reference gives to one position of the current frame, mean over heads.

    Linear attention never forms these weights (BiECVC, eq. 3); for one query they are `softmax(Q)^T softmax(K)`.

    Args:
        attention_query: `(D, H, W)`.
        key: `(D, H, W)` of the reference.
        head_dim: channels of a head.
        place: row and column of the query.

    Returns:
        `(H, W)`, sum 1.
    """
    keys = rearrange(key.float(), "(h d) y x -> h d (y x)", d=head_dim).softmax(dim=-1)
    weights = rearrange(attention_query[:, place[0], place[1]].float(), "(h d) -> h d", d=head_dim).softmax(dim=-1)
    return torch.einsum("hd,hdn->n", weights, keys).view(key.shape[-2:]) / len(keys)


def _draw_attention(coded: CodedClip, query: tuple[float, float]) -> Tensor:
    """The first trained frame: itself with the query; past and future reference, each with its map below."""
    frame, size = coded.trained[0], coded.clip.shape[-2:]
    level = max(int(name[-1]) for name in coded.seen if ATTENTION.fullmatch(name))
    queries, keys = coded.seen[f"gating.decoder.query.{level}"][0][0], coded.seen[f"miner.key.{level}"]
    order = reference_order([f.plan for f in coded.trained])
    place = tuple(min(int(at * side), side - 1) for at, side in zip(query, queries.shape[-2:], strict=True))
    marked = _mark(frame.x_hat[0], query)
    decoded = {other.plan.poc: other.x_hat[0] for other in coded.frames}
    columns = [[marked, torch.zeros_like(marked)]]
    for poc in frame.plan.references[:2]:
        assert poc is not None
        weights = attention_map(queries, keys[order.index(poc)][0], coded.head_dim, (place[0], place[1]))
        columns.append([decoded[poc], _grey(weights / weights.max(), size)])
    return _tile(columns)


def reference_order(plans: Sequence[FramePlan]) -> list[int]:
    """POCs in the order in which the loop asks for their features, each once."""
    return list(dict.fromkeys(poc for plan in plans for poc in plan.references if poc is not None))


def _mark(picture: Tensor, query: tuple[float, float]) -> Tensor:
    """A white cross at the query."""
    marked = picture.clone()
    row, column = (min(int(at * side), side - 1) for at, side in zip(query, picture.shape[-2:], strict=True))
    reach = max(min(picture.shape[-2:]) // 16, 2)
    marked[:, row, max(column - reach, 0) : column + reach + 1] = 1
    marked[:, max(row - reach, 0) : row + reach + 1, column] = 1
    return marked


def _grey(values: Tensor, size: Sequence[int]) -> Tensor:
    """Values `(h, w)` as a picture `(3, H, W)`, pixels repeated."""
    return F.interpolate(values[None, None].float(), size=tuple(size), mode="nearest")[0].expand(3, -1, -1)


def _tile(columns: Sequence[Sequence[Tensor]]) -> Tensor:
    return torch.cat([torch.cat(list(column), dim=-2) for column in columns], dim=-1)


def draw_bits(coded: CodedClip) -> "Figure":
    """Estimated bits of each frame by part, in display order, each frame's temporal layer below it."""
    from matplotlib.figure import Figure

    frames = sorted(coded.frames, key=lambda frame: frame.plan.poc)
    figure = Figure(figsize=(max(4, 0.5 * len(frames)), 3.5), layout="constrained")
    axis, bottom = figure.subplots(), torch.zeros(len(frames))
    for part in PARTS:
        bits = torch.tensor([float(bits_by_part(frame).get(part, 0.0)) for frame in frames])
        axis.bar(range(len(frames)), bits.tolist(), bottom=bottom.tolist(), label=part)
        bottom += bits
    labels = [f"{f.plan.frame_type.name}{f.plan.poc}\nlayer {f.plan.layer}" for f in frames]
    axis.set_xticks(range(len(frames)), labels, fontsize="x-small")
    axis.set(ylabel="estimated bits")
    axis.legend()
    return figure
