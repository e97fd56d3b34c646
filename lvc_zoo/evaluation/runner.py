"""Runs codecs over clips: files written to disk, decoded from disk, measured, and each point kept as it is done."""

import hashlib
import json
import math
import pickle
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from av.error import FFmpegError
from torch import Tensor

from ..codec.video import EncodedVideo
from ..color import ColorSpec, planes_to_rgb, rgb_to_planes
from ..config import strict_from_dict, to_dict
from ..data.readers import FrameReader, Planes
from ..errors import BitstreamError
from ..machine import processor_name
from ..metrics import ms_ssim_per_frame, psnr_db, yuv_psnr_db
from .conditions import TestCondition
from .contenders import MEASURING_CODE, Contender, code_digest, make_contender
from .external import ExternalCodec
from .results import (
    FORMAT,
    CodecResult,
    EvaluationResult,
    Failure,
    FrameResult,
    PlanesResult,
    PointResult,
    file_name,
    write_json,
)
from .sources import Clip, PlanarReader


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How a run uses the machine; no number but the times depends on it.

    Attributes:
        jobs: processes that code at the same time.
        threads: of PyTorch in each process; None shares PyTorch's own number among the processes.
        keep: keep the coded files, under `streams`.
    """

    jobs: int = 1
    threads: int | None = None
    keep: bool = False

    def __post_init__(self) -> None:
        """Check both numbers."""
        if self.jobs < 1 or (self.threads is not None and self.threads < 1):
            raise ValueError(f"jobs is {self.jobs} and threads is {self.threads}, expected at least 1 each")

    @property
    def threads_each(self) -> int:
        """Threads of each process."""
        return self.threads or max(torch.get_num_threads() // self.jobs, 1)


class Task(NamedTuple):
    """One point to measure.

    Attributes:
        contender: the codec.
        clip: the clip.
        value: the setting.
        condition: what to measure.
        folder: for `points` and `streams`.
    """

    contender: Contender
    clip: Clip
    value: float
    condition: TestCondition
    folder: Path

    @property
    def place(self) -> str:
        """Relative path of this point without a suffix; its end tells points of different keys apart."""
        codec, clip = map(file_name, self.names)
        structure = "-".join(map(str, self.contender.structure.to_config().values()))
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:8]
        return f"{codec}/{structure}/{clip}/{self.contender.parameter}{self.value:g}-{digest}"

    @property
    def names(self) -> tuple[str, str]:
        """Of codec and clip."""
        return self.contender.name, self.clip.source.name

    @property
    def key(self) -> dict[str, Any]:
        """All that the numbers depend on, JSON-ready."""
        contender = self.contender
        return {
            "format": FORMAT,
            "condition": self.condition.of_clip(self.clip.source.name),
            "codec": [contender.name, contender.identity, repr(contender.structure), contender.check],
            "setting": [contender.parameter, self.value],
            "measuring": code_digest(MEASURING_CODE)[:16],
        }


def evaluate(
    codecs: Sequence[str | Contender],
    clips: Sequence[Clip],
    condition: TestCondition,
    work: Path,
    settings: RunSettings | None = None,
    note: Callable[[PointResult | Failure], None] = lambda _: None,
) -> EvaluationResult:
    """Code every clip with every codec at every rate point, and measure the decoded files.

    Each point is written when it is done; a later run, under this condition or another, takes it from there where clip,
    frames, structure of the codec, weights, setting and this package's code agree. A point that fails does not stop the
    others.

    Args:
        codecs: names for `make_contender`, or contenders.
        clips: from `find_clips`; those of the condition.
        condition: what to code and measure.
        work: folder for `points` and `streams`, made if missing.
        settings: of the machine; None is `RunSettings()`.
        note: called with each point as it is measured or found.

    Returns:
        All points and failures.

    Raises:
        ValueError: where the clips are not the condition's, or two codecs have one name.
    """
    if tuple(clip.source for clip in clips) != condition.sequences:
        raise ValueError("the clips are not those of the test condition; make it from find_clips, and keep their order")
    contenders = [make_contender(codec, condition) if isinstance(codec, str) else codec for codec in codecs]
    names = [contender.name for contender in contenders]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"codecs are {names}, expected at least one and no name twice; give labels, LABEL=NAME")
    tasks = [Task(c, clip, value, condition, work) for clip in clips for c in contenders for value in c.values]
    settings = settings or RunSettings()
    done: dict[int, PointResult | Failure] = {}
    for index, task in enumerate(tasks):
        if (point := _stored_point(task, with_stream=settings.keep)) is not None:
            done[index] = point
            note(point)
    missing = {index: task for index, task in enumerate(tasks) if index not in done}
    for index, outcome in _run(missing, settings):
        done[index] = outcome
        note(outcome)
    outcomes = [done[index] for index in range(len(tasks))]
    return EvaluationResult(
        condition=condition,
        codecs=tuple(map(_described, contenders)),
        points=tuple(outcome for outcome in outcomes if isinstance(outcome, PointResult)),
        failures=tuple(outcome for outcome in outcomes if isinstance(outcome, Failure)),
    )


def _described(contender: Contender) -> CodecResult:
    return CodecResult(
        name=contender.name,
        parameter=contender.parameter,
        values=contender.values,
        structure=repr(contender.structure),
        identity=contender.identity,
        check=contender.check,
    )


def _stored_point(task: Task, *, with_stream: bool) -> PointResult | None:
    """The point that an earlier run left, None where there is none of this key, or its file is asked for and gone."""
    path = task.folder / "points" / f"{task.place}.json"
    if not path.exists() or (with_stream and not _kept_stream(task).exists()):
        return None
    try:
        data = json.loads(path.read_text())
        if data["key"] != json.loads(json.dumps(task.key)):
            return None
        return strict_from_dict(PointResult, data["point"], where="point")
    except (ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{path} is damaged and is measured again: {error}", stacklevel=3)
        return None


def _run(tasks: dict[int, Task], settings: RunSettings) -> Iterator[tuple[int, PointResult | Failure]]:
    """Outcomes by index, as they come."""
    if settings.jobs == 1:
        with _thread_count(settings.threads_each):
            for index, task in tasks.items():
                yield index, _attempt(task, settings)
        return
    # pickled here, once a codec: the pool's own way to send tensors holds a file descriptor for each of them
    contenders = {task.contender.name: task.contender for task in tasks.values()}
    packed = {name: pickle.dumps(contender) for name, contender in contenders.items()}
    with ProcessPoolExecutor(settings.jobs, mp_context=get_context("spawn")) as pool:
        futures: dict[Future[PointResult | Failure], int] = {
            pool.submit(_attempt_elsewhere, packed[task.contender.name], task[1:], settings): index
            for index, task in tasks.items()
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _attempt_elsewhere(
    contender: bytes, rest: tuple[Clip, float, TestCondition, Path], settings: RunSettings
) -> PointResult | Failure:
    torch.set_num_threads(settings.threads_each)
    return _attempt(Task(pickle.loads(contender), *rest), settings)


@contextmanager
def _thread_count(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _attempt(task: Task, settings: RunSettings) -> PointResult | Failure:
    try:
        point = measure(task, settings)
    except (BitstreamError, ValueError, OSError, RuntimeError, FFmpegError) as error:
        codec, clip = task.names
        return Failure(codec=codec, clip=clip, parameter=task.contender.parameter, value=task.value, reason=str(error))
    write_json(task.folder / "points" / f"{task.place}.json", {"key": task.key, "point": to_dict(point)})
    return point


def measure(task: Task, settings: RunSettings) -> PointResult:
    """Encode a clip into a file, decode the file, and compare with the source.

    Args:
        task: what to code.
        settings: of the machine, for the record.

    Raises:
        BitstreamError: where the file does not decode to as many frames as were encoded.
        ValueError: for a clip that the codec refuses.
    """
    with _stream_path(task, settings.keep) as path:
        reader = task.clip.open()
        start = time.perf_counter()
        video = task.contender.encode(reader, path, task.value)
        encode_seconds = time.perf_counter() - start
        size_bytes = path.stat().st_size
        quality = _Quality(task, video)
        quality.compare(path, reader)
    codec, clip = task.names
    threads = task.contender.threads or torch.get_num_threads()
    machine = f"{processor_name()}, {threads} threads, torch {torch.__version__}, {settings.jobs} jobs"
    num_pixels = video.num_frames * reader.width * reader.height
    ideal_bits = [sum(record.bits.values()) for record in video.frames if record.bits]
    return PointResult(
        codec=codec,
        clip=clip,
        parameter=task.contender.parameter,
        value=task.value,
        size_bytes=size_bytes,
        num_frames=video.num_frames,
        bpp=8 * size_bytes / num_pixels,
        psnr_rgb_db=_finite_mean(quality.psnr),
        psnr_yuv=quality.planes(),
        ms_ssim=_finite_mean(quality.ms_ssim) if quality.ms_ssim else None,
        encode_seconds=encode_seconds,
        decode_seconds=quality.decode_seconds,
        machine=machine,
        check=task.contender.check,
        frames=quality.frames(),
        ideal_bpp=float(sum(ideal_bits)) / num_pixels if ideal_bits else None,
    )


def _kept_stream(task: Task) -> Path:
    return task.folder / "streams" / f"{task.place}.bin"


@contextmanager
def _stream_path(task: Task, keep: bool) -> Iterator[Path]:
    """Where the coded file goes."""
    if keep:
        path = _kept_stream(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "stream.bin"


def _finite_mean(values: Sequence[float]) -> float | None:
    mean = sum(values) / len(values)
    return mean if math.isfinite(mean) else None


class _Quality:
    """Quality of each frame, a frame at a time."""

    def __init__(self, task: Task, video: EncodedVideo) -> None:
        self._task, self._video = task, video
        self._has_planes = task.clip.source.stored_as == "yuv"
        self._with_ms_ssim = task.condition.ms_ssim
        self.psnr: list[float] = []
        self.ms_ssim: list[float] = []
        self._yuv: list[Tensor] = []
        self.decode_seconds = 0.0

    def compare(self, path: Path, reader: FrameReader) -> None:
        """Decode the file beside the source."""
        decoded = self._timed(_decoded(self._task.contender, path, reader.color, self._has_planes))
        for poc, (x, planes) in enumerate(_source(reader, self._has_planes)):
            pair = next(decoded, None)
            if pair is None or pair[0].shape != x.shape:
                got = "nothing" if pair is None else f"a frame of shape {tuple(pair[0].shape)}"
                raise BitstreamError(f"frame {poc} decoded to {got}, expected shape {tuple(x.shape)}", poc=poc)
            self._add(x, pair[0], planes, pair[1])
        if next(decoded, None) is not None or len(self.psnr) != self._video.num_frames:
            raise BitstreamError(
                f"the source has {len(self.psnr)} frames, the encoder took {self._video.num_frames}, and the decoder "
                "gave others; expected the same number everywhere"
            )

    def _add(self, x: Tensor, x_hat: Tensor, planes: Planes | None, planes_hat: Planes | None) -> None:
        x_hat = x_hat.cpu()
        self.psnr.append(float(psnr_db(x_hat, x)))
        if self._with_ms_ssim:
            self.ms_ssim.append(float(ms_ssim_per_frame(x_hat[None], x[None])))
        if planes is not None:
            color = self._task.clip.source.color
            decoded = rgb_to_planes(x_hat, color) if planes_hat is None else planes_hat
            pairs = [[plane.float() for plane in each] for each in (decoded, planes)]
            self._yuv.append(torch.stack(tuple(yuv_psnr_db(pairs[0], pairs[1], color.max_code))))

    def _timed(self, frames: Iterator[Any]) -> Iterator[Any]:
        while True:
            start = time.perf_counter()
            frame = next(frames, None)
            self.decode_seconds += time.perf_counter() - start
            if frame is None:
                return
            yield frame

    def planes(self) -> PlanesResult | None:
        """Means over frames in the source's planes."""
        if not self._yuv:
            return None
        means = torch.stack(self._yuv).mean(dim=0).tolist()
        y, u, v, yuv611, yuv411, yuv_mse411 = (value if math.isfinite(value) else None for value in means)
        return PlanesResult(
            psnr_y=y, psnr_u=u, psnr_v=v, psnr_yuv611=yuv611, psnr_yuv411=yuv411, psnr_yuv_mse411=yuv_mse411
        )

    def frames(self) -> tuple[FrameResult, ...]:
        """What each frame took, in display order."""
        records = sorted(self._video.frames, key=lambda record: record.poc)
        return tuple(
            FrameResult(
                poc=record.poc,
                frame_type=record.frame_type,
                layer=record.layer,
                size_bytes=record.payload_bytes + record.framing_bytes,
                psnr_rgb_db=psnr if math.isfinite(psnr) else None,
            )
            for record, psnr in zip(records, self.psnr, strict=True)
        )


def _source(reader: FrameReader, has_planes: bool) -> Iterator[tuple[Tensor, Planes | None]]:
    """RGB of each frame and, of a YCbCr source, its planes."""
    if has_planes and isinstance(reader, PlanarReader):
        for planes in reader.planes():
            yield planes_to_rgb(*planes, reader.color), planes
    else:
        for x in reader:
            yield x, None


def _decoded(
    contender: Contender, path: Path, color: ColorSpec, has_planes: bool
) -> Iterator[tuple[Tensor, Planes | None]]:
    """Decoded RGB and, where the decoder works in the source's own form, its planes before they became RGB."""
    if isinstance(contender.codec, ExternalCodec) and has_planes:
        reader = contender.codec.open(path)
        stored = ("matrix", "full_range", "bit_depth", "chroma")
        if all(getattr(reader.color, name) == getattr(color, name) for name in stored):
            for planes in reader.planes():
                yield planes_to_rgb(*planes, reader.color), planes
            return
    for x_hat in contender.codec.decode(path):
        yield x_hat, None
