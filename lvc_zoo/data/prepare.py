"""`lvc-zoo data`: put a data set in its place, check what a folder holds, turn it into shards."""

import hashlib
import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from ..errors import nearest_names
from .cache import gathered_color_warnings, list_sources, progress, raw_format
from .cuts import find_cuts, thumbnail
from .folders import Stream, streams_of
from .readers import IncompleteVideoWarning, list_pictures
from .septuplets import LAYOUT, TEST_LIST, is_septuplets, list_septuplets
from .shards import SHARD_BYTES, is_address, is_shards, write_shards

MANIFEST = "manifest.json"
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSet:
    """A data set that everybody must fetch from its owners.

    Attributes:
        origin: where from.
        members: glob patterns of file names, each of one sequence.
        size: width and height of its raw files.
    """

    origin: str
    members: tuple[str, ...]
    size: tuple[int, int] | None = None


def _sequences(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}_*" for name in names)


JVET = "the JVET common test conditions; ask a member of JVET, or the authors of a paper that uses them"
UVG_NAMES = ("Beauty", "Bosphorus", "HoneyBee", "Jockey", "Ready*Go", "ShakeNDry", "YachtRide")
KNOWN_SETS = {
    "uvg": KnownSet(origin="the Ultra Video Group, ultravideo.fi", members=_sequences(*UVG_NAMES), size=(1920, 1080)),
    "mcl-jcv": KnownSet(
        origin="the Media Communications Lab of USC, mcl.usc.edu",
        members=tuple(f"videoSRC{i:02d}*" for i in range(1, 31)),
        size=(1920, 1080),
    ),
    "hevc-b": KnownSet(
        origin=JVET,
        members=_sequences("BQTerrace", "BasketballDrive", "Cactus", "Kimono1", "ParkScene"),
        size=(1920, 1080),
    ),
    "hevc-c": KnownSet(
        origin=JVET, members=_sequences("BQMall", "BasketballDrill", "PartyScene", "RaceHorses"), size=(832, 480)
    ),
    "hevc-d": KnownSet(
        origin=JVET,
        members=_sequences("BasketballPass", "BlowingBubbles", "BQSquare", "RaceHorses"),
        size=(416, 240),
    ),
    "hevc-e": KnownSet(origin=JVET, members=_sequences("FourPeople", "Johnny", "KristenAndSara"), size=(1280, 720)),
    "bvi-aom": KnownSet(origin="the University of Bristol, see arXiv 2408.03265", members=()),
}
SETS = ("vimeo90k", *KNOWN_SETS)


# ---- prepare


def prepare(what: str, source: str | None = None, out: str | None = None) -> list[str]:
    """Put a data set in its place and write checksums of its files; where they stand already, compare with them.

    Args:
        what: one of `SETS`, or a folder.
        source: where the files of a named set are now, at any depth.
        out: folder for links to them; None leaves them where they are.

    Returns:
        What differs from the checksums; empty where they are new.

    Raises:
        FileNotFoundError: where sequences are missing; says where they come from.
        ValueError: for an unknown name, a sequence found twice or a wrong size.
    """
    if what not in SETS and not Path(what).is_dir():
        raise ValueError(f"{what!r} is neither a folder nor a data set that is known{nearest_names(what, SETS)}")
    if what in SETS and source is None:
        raise ValueError(
            f"it is not known where the files of {what} are; add --source FOLDER. They come from {_origin(what)}"
        )
    folder = Path(source or what)
    files = _files_of(what, folder)
    if out is not None and what == "vimeo90k":
        _link_folder(folder, Path(out))
    elif out is not None:
        # a named set is flat; any other folder keeps its form
        names = [path.name if what in KNOWN_SETS else str(path.relative_to(folder)) for path in files]
        files = [_link(path, Path(out) / name) for path, name in zip(files, names, strict=True)]
    target = folder if out is None or what == "vimeo90k" else Path(out)
    if (target / MANIFEST).exists():
        return compare_manifest(target, present=files)
    write_manifest(target, files)
    return []


def _origin(name: str) -> str:
    return LAYOUT if name == "vimeo90k" else KNOWN_SETS[name].origin


def _files_of(what: str, folder: Path) -> list[Path]:
    if what == "vimeo90k":
        return _septuplet_files(folder)
    if what in KNOWN_SETS:
        return _member_files(what, folder)
    return [
        part for source in list_sources(folder) for part in (list_pictures(source) if source.is_dir() else [source])
    ]


def _septuplet_files(folder: Path) -> list[Path]:
    septuplets = list_septuplets(folder) + list_septuplets(folder, names=TEST_LIST)
    files = [folder / "sequences" / s.name / f"im{i}.png" for s in septuplets for i in range(1, 8)]
    missing = [path for path in files if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} pictures are missing, the first is {missing[0]}; {LAYOUT}")
    return files


def _member_files(name: str, folder: Path) -> list[Path]:
    """The files of a named set, one for each sequence."""
    known = KNOWN_SETS[name]
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; {name} comes from {known.origin}")
    inside = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".yuv", ".y4m", ".mp4", ".mkv"))
    found = {member: [path for path in inside if fnmatch(path.name, member)] for member in known.members}
    missing = [member for member, paths in found.items() if not paths]
    if missing or not inside:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing) or 'videos'} of {name}; it comes from {known.origin}"
        )
    files = [_only(member, paths, known.size) for member, paths in found.items()] if known.members else inside
    for path in files:
        size = raw_format(path)[0] if path.suffix.lower() == ".yuv" else None
        if size and known.size and size != known.size:
            raise ValueError(f"{path} is {size[0]}x{size[1]}, expected {known.size[0]}x{known.size[1]} for {name}")
    return files


def _only(member: str, paths: Sequence[Path], size: tuple[int, int] | None) -> Path:
    """The one file of a sequence; of several sizes the set's own."""
    sized = [path for path in paths if size and f"{size[0]}x{size[1]}" in path.name] or paths
    if len(sized) > 1:
        raise ValueError(f"{member} matches {', '.join(map(str, sized))}, expected one file; move the others elsewhere")
    return sized[0]


def _link(path: Path, target: Path) -> Path:
    """A second name for a file: a hard link where the disk allows it, else a symbolic one."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(path)
        except OSError:
            target.symlink_to(path.resolve())
    return target


def _link_folder(folder: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(folder.resolve(), target_is_directory=True)


# ---- checksums


def write_manifest(folder: Path, files: Sequence[Path]) -> None:
    """Write the size and SHA-256 of files below a folder into its manifest.json."""
    entries = {}
    for path in progress(sorted(files), f"checksums of {folder.name}"):
        name = path.relative_to(folder).as_posix()
        entries[name] = {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}
    partial = folder / f"{MANIFEST}.part"
    partial.write_text(json.dumps({"version": 1, "files": entries}, indent=1))
    partial.replace(folder / MANIFEST)


def compare_manifest(folder: Path, manifest: Path | None = None, present: Sequence[Path] = ()) -> list[str]:
    """What differs between the files of a folder and a manifest.

    Args:
        folder: which paths in the manifest start from.
        manifest: None is the folder's own.
        present: files of the folder that the manifest should name.

    Raises:
        ValueError: for a file that is no manifest.
    """
    path = manifest or folder / MANIFEST
    try:
        entries = json.loads(path.read_text())["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a manifest; remove it and run `lvc-zoo data prepare` to write a new one"
        ) from error
    differing = [
        problem
        for name, entry in progress(sorted(entries.items()), f"checksums of {folder.name}")
        if (problem := _difference(folder, name, entry))
    ]
    unlisted = sorted({file.relative_to(folder).as_posix() for file in present} - entries.keys())
    return differing + [f"{name} is not in the manifest; remove {MANIFEST} to write a new one" for name in unlisted]


def _difference(folder: Path, name: str, entry: dict[str, object]) -> str | None:
    path = folder / name
    if not path.exists():
        return f"{name} is missing, but the manifest has it"
    if path.stat().st_size != entry["size_bytes"]:
        return f"{name} has {path.stat().st_size} bytes, the manifest says {entry['size_bytes']}"
    if sha256_of(path) != entry["sha256"]:
        return f"{name} has another SHA-256 than the manifest says"
    return None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


# ---- check


@dataclass(slots=True)
class FolderReport:
    """What a folder holds.

    Attributes:
        sources: number of readable videos, stills and clips.
        frames: in all of them.
        sizes: number of sources by "WIDTHxHEIGHT".
        lengths: number of sources by frames.
        cuts: by name, of the sources that have some.
        problems: one line each.
    """

    sources: int = 0
    frames: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The report as text."""
        yield f"{self.sources} sources, {self.frames} frames, {sum(map(len, self.cuts.values()))} cuts"
        yield "sizes: " + ", ".join(f"{size} ({count})" for size, count in self.sizes.most_common())
        yield "frames: " + ", ".join(f"{length} ({count})" for length, count in self.lengths.most_common())
        for name, cuts in self.cuts.items():
            yield f"cuts in {name}: {', '.join(map(str, cuts))}"
        for problem in self.problems:
            yield f"problem: {problem}"


def check_folder(folder: str, manifest: str | None = None, cache: str = "runs/cache") -> FolderReport:
    """Read every frame of a folder, and compare its files with its manifest where there is one.

    Args:
        folder: a path, or the address of shards.
        manifest: another one than the folder's own.
        cache: where shards from an address are kept.
    """
    report = FolderReport()
    with gathered_color_warnings(folder):
        for stream in progress(streams_of(folder, cache), f"reading {Path(folder).name}"):
            _check_stream(stream, report)
    if manifest is not None or (not is_address(folder) and (Path(folder) / MANIFEST).exists()):
        what = "vimeo90k" if is_septuplets(folder) else folder
        present = [] if is_shards(folder) else _files_of(what, Path(folder))
        report.problems += compare_manifest(Path(folder), None if manifest is None else Path(manifest), present)
    return report


def _check_stream(stream: Stream, report: FolderReport) -> None:
    thumbnails, size = [], ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", IncompleteVideoWarning)
            for frame in stream.frames():
                thumbnails.append(thumbnail(frame))
                size = f"{frame.shape[1]}x{frame.shape[0]}"
    except (ValueError, OSError, IncompleteVideoWarning) as error:
        report.problems.append(f"{stream.name}: {error}")
        return
    report.sources += 1
    report.frames += len(thumbnails)
    report.sizes[size] += 1
    report.lengths[len(thumbnails)] += 1
    cuts = find_cuts(np.stack(thumbnails)) if stream.cuts is None else list(stream.cuts)
    if cuts:
        report.cuts[stream.name] = cuts


# ---- optimize


def optimize(
    folder: str, out: str, encoding: str = "raw", shard_bytes: int = SHARD_BYTES, *, is_held_out: bool = False
) -> int:
    """Turn what a folder holds into LitData's shards with a manifest; gives their number.

    Args:
        folder: of videos, stills, folders of frames, or Vimeo-90K's archive.
        out: a new folder; it appears when it is complete.
        encoding: see `shards.write_shards`.
        shard_bytes: aim for the size of a shard.
        is_held_out: of Vimeo-90K's archive take the test list, not the training list.

    Raises:
        ValueError: where `out` is taken, a source cannot be read, or a test list is asked for and there is none.
    """
    target = Path(out)
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{out} exists and is not empty; give a new folder")
    has_lists = is_septuplets(folder)
    if is_held_out and not has_lists:
        raise ValueError(f"{folder} is no archive of Vimeo-90K, so it has no test list; leave --held-out away")
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    held_out = is_held_out if has_lists else None
    streams = progress(streams_of(folder, target.parent, is_held_out=is_held_out), f"writing {target.name}")
    try:
        with gathered_color_warnings(folder):
            sources = ((s.name, s.frames(), s.cuts) for s in streams)
            write_shards(sources, partial, encoding, shard_bytes, is_held_out=held_out)
        files = [path for path in partial.iterdir() if path.is_file()]
        write_manifest(partial, files)
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sum(path.suffix == ".bin" for path in files)
