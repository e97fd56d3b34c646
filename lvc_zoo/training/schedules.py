"""Stage tables of the papers, in steps of four clips; recipes that say nothing else run these.

None of the papers prints its table. CHOICE: these follow the reference sheets, which take them from public
re-implementations of the family and from what the papers say of clips, learning rates and epochs.
"""

from collections.abc import Sequence
from dataclasses import replace

from .stages import Stage

VIMEO_EPOCH = 16_153
"""Steps of an epoch of Vimeo-90K: 64,612 training septuplets in batches of four."""


def _constant(
    base: Stage, name: str, epochs: int, predicted: int, learning_rate: float = 1e-4, intra_frames: int = 1
) -> Stage:
    """A stage of clips of `predicted` P or B frames, at one learning rate."""
    return replace(
        base,
        name=name,
        steps=epochs * VIMEO_EPOCH,
        num_frames=predicted + intra_frames,
        learning_rate=learning_rate,
        final_learning_rate=learning_rate,
    )


_MOTION = Stage(
    name="motion", steps=1, num_frames=1, learning_rate=1e-4, trained="motion", distortion="warp", frame_weights=False
)
_RECONSTRUCTION = Stage(
    name="reconstruction", steps=1, num_frames=1, learning_rate=1e-4, trained="all-but-motion", frame_weights=False
)
_JOINT = Stage(name="joint", steps=1, num_frames=1, learning_rate=1e-4, frame_weights=False)


def _warm_up(intra_frames: int = 1) -> list[Stage]:
    """Motion without and with its rate, then the rest without and with its rate: the family's first ten epochs."""
    rows = (
        ("motion", 1, replace(_MOTION, rate=())),
        ("motion-rate", 3, replace(_MOTION, rate=("motion",))),
        ("reconstruction", 3, replace(_RECONSTRUCTION, rate=())),
        ("reconstruction-rate", 3, replace(_RECONSTRUCTION, rate=("frame",))),
    )
    return [_constant(base, name, epochs, 1, intra_frames=intra_frames) for name, epochs, base in rows]


_DETACHED = replace(_JOINT, backpropagation="detached")
_PAIRS = replace(_JOINT, backpropagation="chunked", chunk=2, frame_weights=True)
_WEIGHTED = replace(_JOINT, frame_weights=True)

FAMILY: tuple[Stage, ...] = (
    *_warm_up(),
    _constant(_DETACHED, "joint-1", 6, 1),
    _constant(_DETACHED, "joint-2", 5, 2),
    _constant(replace(_DETACHED, frame_weights=True), "joint-4", 3, 4),
    _constant(replace(_DETACHED, frame_weights=True), "joint-4-slow", 1, 4, 1e-5),
    _constant(_WEIGHTED, "cascaded", 2, 4, 5e-5),
    _constant(_WEIGHTED, "cascaded-slow", 3, 4, 1e-5),
)
"""DCVC-TCM and its descendants, 30 epochs."""

LSTEC: tuple[Stage, ...] = (
    *_warm_up(),
    _constant(_JOINT, "joint-1", 10, 1),
    _constant(_JOINT, "joint-2", 6, 2),
    _constant(_PAIRS, "pairs", 6, 4),
    _constant(_PAIRS, "pairs-slow", 1, 4, 1e-5),
    _constant(_WEIGHTED, "cascaded", 2, 4, 5e-5),
    _constant(_WEIGHTED, "cascaded-slow", 3, 4, 1e-5),
)
"""L-STEC, 33 + 5 epochs. CHOICE: cascaded over at least two frames as soon as clips have two, since with the "stored"
hidden state the recurrent cells get no gradient otherwise."""


def _long(name: str, epochs: int, num_frames: int, rates: tuple[float, float], base: Stage) -> Stage:
    steps = epochs * VIMEO_EPOCH
    return replace(
        base, name=name, steps=steps, num_frames=num_frames, learning_rate=rates[0], final_learning_rate=rates[1]
    )


_CHECKPOINTED = replace(_WEIGHTED, checkpointing=True)

BIECVC: tuple[Stage, ...] = (
    *(
        replace(stage, strides=(1, 2, 3), frame_weights=stage.distortion == "frame")
        for stage in _warm_up(intra_frames=2)
    ),
    replace(_constant(_WEIGHTED, "triplets", 10, 1, intra_frames=2), strides=(1, 2, 3)),
    _long("five", 6, 5, (1e-4, 5e-5), _WEIGHTED),
    _long("nine", 4, 9, (5e-5, 2e-5), _CHECKPOINTED),
    _long("seventeen", 2, 17, (2e-5, 1e-5), _CHECKPOINTED),
    _long("long", 1, 33, (1e-6, 1e-6), _CHECKPOINTED),
)
"""BiECVC. The paper states 33 frames at 1e-6 for the last stage; epochs are a CHOICE. Clips of nine and more frames
need long sources, which Vimeo-90K lacks: their epochs are counted in its steps too."""

INTRA: tuple[Stage, ...] = (
    Stage(name="intra", steps=50 * VIMEO_EPOCH, num_frames=1, learning_rate=1e-4, warmup_steps=1000),
)
"""Intra codecs. CHOICE: neither paper says how; a cosine to a hundredth of the peak."""


def ms_ssim_fine_tuning(table: Sequence[Stage], epochs: int = 3, learning_rate: float = 1e-5) -> tuple[Stage, ...]:
    """The last row of a table, for tuning a trained model to MS-SSIM."""
    last = table[-1]
    return (_constant(last, "ms-ssim", epochs, last.num_frames, learning_rate, intra_frames=0),)
