"""Folders of weights: found by name, path or Hub repository, verified, written, published.

A weights folder holds

    config.json          {"format": 1, "variant": ..., "codec": ..., "config": {...}, "sha256": {file: hex}, ...}
    intra.safetensors    the state dict of one network per file; a codec without one lacks the file
    inter.safetensors
    README.md            the model card

A folder inside the package may name the intra codec of another bundled variant in place of a file of its own,
``"intra": {"variant": ..., "sha256": hex}``; `share_intra` makes it so, and `write_folder` always writes a full copy.

Only safetensors are read, and only if their digest is the one in ``config.json``: a pickle may run code when loaded.
Nothing here knows a model class: folders and dicts go in and out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .errors import WeightsError, nearest_names

FORMAT = 1
BUNDLED = Path(__file__).parent / "weights"

_LIBRARY = "lvc_zoo"
_INTRA = "intra.safetensors"
_PICTURE = re.compile(r"[^/\\]+\.png")
_ENTRIES = {"variant": str, "codec": str, "config": dict, "sha256": dict}
_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".pickle", ".pth.tar")
_HUB_SOURCE = re.compile(r"(?P<prefix>hf-hub:)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>.+))?")


class Origin(NamedTuple):
    """Where weights came from.

    Attributes:
        kind: "bundled" (inside the package), "folder" or "hub".
        name: bundled name, absolute path or "owner/repo".
        commit: the resolved commit of a Hub repository, 40 hex digits; None elsewhere.
    """

    kind: Literal["bundled", "folder", "hub"]
    name: str
    commit: str | None = None

    @property
    def text(self) -> str:
        """The source by which `resolve` finds exactly these weights again."""
        return f"{self.name}@{self.commit}" if self.commit else self.name


class WeightsFolder(NamedTuple):
    """A weights folder on this machine and where it came from."""

    path: Path
    origin: Origin


def bundled_names() -> list[str]:
    """Gives the names of the weights inside the package, sorted."""
    return sorted(folder.parent.name for folder in BUNDLED.glob("*/config.json"))


def resolve(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
) -> WeightsFolder:
    """Finds a weights folder, downloading it from the Hub if need be; its files are verified by `read_folder`.

    Args:
        source: a folder with a ``config.json``, else a bundled name, else "owner/repo", "owner/repo@revision" or the
            same after "hf-hub:", which skips the other two. "./name" is always a folder.
        revision: branch, tag or commit of a Hub repository, instead of "@revision".
        local_files_only: take Hub files from the cache only.
        cache_dir: the Hub cache; None is the client's own.
        token: Hub token; None is the client's own.

    Raises:
        WeightsError: nothing is found, or it holds no safetensors weights.
    """
    match = _HUB_SOURCE.fullmatch(source) if isinstance(source, str) else None
    is_hub_only = match is not None and match["prefix"] is not None
    path = Path(source).expanduser()
    if not is_hub_only and path.is_dir() and (source not in bundled_names() or (path / "config.json").exists()):
        found = WeightsFolder(path, Origin("folder", str(path.resolve())))
    elif source in bundled_names():
        found = WeightsFolder(BUNDLED / source, Origin("bundled", str(source)))
    elif match is not None and not match["repo"].startswith((".", "~")):
        if revision is not None and match["revision"] not in (None, revision):
            raise ValueError(f"source {source!r} and revision {revision!r} disagree; give the revision once")
        revision = revision or match["revision"]
        return _download(match["repo"], revision, local_files_only, cache_dir, token)
    elif not isinstance(source, str) or "/" in source or os.sep in source:
        raise WeightsError(f"weights folder {str(source)!r} does not exist; expected a folder with a config.json")
    else:
        hint = nearest_names(source, bundled_names())
        raise WeightsError(f"no bundled weights are named {source!r}{hint}; Hub weights are named 'owner/repo'")
    if revision is not None:
        raise ValueError(
            f"revision {revision!r} was given for {found.origin.kind} weights; only Hub repositories have one"
        )
    _check_layout(found.path, _names(found.path), str(source))
    return found


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the ``config.json`` of a weights folder strictly, without touching its weights.

    Raises:
        WeightsError: the file is missing, is not strict JSON, has another format version or lacks an entry.
    """
    path = Path(path)
    _check_layout(path, _names(path), str(path))
    file = path / "config.json"
    try:
        config = json.loads(file.read_bytes(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except ValueError as error:
        raise WeightsError(f"{file} is not strict JSON: {error}; write it with save_pretrained") from error
    version = config.get("format") if isinstance(config, dict) else None
    if type(version) is not int or version != FORMAT:
        raise WeightsError(
            f"{file} has format {version!r}, expected {FORMAT}; it was not written by lvc_zoo, or by a newer "
            "version: upgrade"
        )
    for key, kind in _ENTRIES.items():
        if not isinstance(config.get(key), kind):
            raise WeightsError(f"{file} has {key!r}: {config.get(key)!r}, expected a JSON {kind.__name__}")
    intra = config.get("intra", {"variant": "", "sha256": ""})
    is_complete = isinstance(intra, dict) and set(intra) == {"variant", "sha256"}
    if not is_complete or not all(isinstance(value, str) for value in intra.values()):
        raise WeightsError(f"{file} has 'intra': {intra!r}, expected a bundled variant and the sha256 of its {_INTRA}")
    pictures = config.get("pictures", [])
    # plain names only: what they name is published with the folder
    is_plain = isinstance(pictures, list) and all(isinstance(n, str) and _PICTURE.fullmatch(n) for n in pictures)
    if not is_plain:
        raise WeightsError(f"{file} has 'pictures': {pictures!r}, expected names of PNG files in the folder")
    return config


def read_folder(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Reads a weights folder, each file verified against its digest before it is parsed.

    Returns:
        The content of ``config.json``, and the state dicts by the names of their files ("intra", "inter"), on the CPU;
        "intra" may come from the bundled variant that the config names.

    Raises:
        WeightsError: a file is missing, altered, not listed or not safetensors.
    """
    path = Path(path)
    config = read_config(path)
    listed = config["sha256"]
    unlisted = {file.name for file in path.glob("*.safetensors")} - set(listed)
    if unlisted:
        raise WeightsError(
            f"{path} holds {sorted(unlisted)}, but the sha256 entry of its config.json lists {sorted(listed)}; "
            "remove the extra files or write the folder with save_pretrained"
        )
    states = {name.removesuffix(".safetensors"): _read_state(path, name, listed[name]) for name in listed}
    if "intra" in config:
        states["intra"] = _read_shared_intra(path, config)
    return config, states


def write_folder(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    states: Mapping[str, Mapping[str, Tensor]],
    card: str,
    pictures: Iterable[str | os.PathLike[str]] = (),
) -> Path:
    """Writes a weights folder as a whole or not at all; an older weights folder of that name is replaced.

    Args:
        path: the folder; parents are made.
        config: the entries "variant", "codec", "config" and any further ones, JSON-ready; "format" and "sha256" are
            filled in, and "intra" left out, because the copy is full.
        states: state dicts by name ("intra", "inter"). Types are kept; tensors that share memory are stored apart.
        card: the text of README.md, from `model_card`.
        pictures: PNG files to copy into it; "pictures" in the config lists their names.

    Raises:
        ValueError: a picture is not called NAME.png.
        WeightsError: ``path`` is not empty and is not a weights folder.
        OSError: a picture cannot be read.
    """
    path = Path(path).expanduser().resolve()
    check_replaceable(path)
    paths = [Path(picture) for picture in pictures]
    for picture in paths:
        if picture.suffix != ".png":
            raise ValueError(f"picture {picture} is no PNG, expected NAME.png; convert it or leave it out")
    files = {f"{name}.safetensors": _to_safetensors(state) for name, state in states.items()}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    kept = {key: value for key, value in config.items() if key not in ("format", "intra", "pictures")}
    kept |= {"pictures": [picture.name for picture in paths]} if paths else {}
    files["config.json"] = _config_bytes({"format": FORMAT} | kept | {"sha256": digests})
    files["README.md"] = card.encode()
    files |= {picture.name: picture.read_bytes() for picture in paths}
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = secrets.token_hex(4)
    fresh = path.with_name(f".{path.name}.{suffix}.new")
    old = path.with_name(f".{path.name}.{suffix}.old")
    try:
        fresh.mkdir()
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        read_config(fresh)
        if path.exists():
            path.rename(old)
        try:
            fresh.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return path


def share_intra(path: str | os.PathLike[str], variant: str) -> None:
    """Drops the intra codec of a full folder that is the very file of a bundled variant, and names that one instead.

    For folders that go into the package beside the variant's own; elsewhere weights should be whole.

    Args:
        path: a folder as `write_folder` leaves it.
        variant: bundled name.

    Raises:
        WeightsError: the variant is not bundled, or its intra codec is another one.
    """
    path = Path(path)
    config = read_config(path)
    own, theirs = config["sha256"].get(_INTRA), _bundled_intra(variant)
    if own != theirs:
        raise WeightsError(
            f"{path / _INTRA} has sha256 {own}, expected {theirs}, that of bundled {variant!r}; "
            "only an identical file is shared"
        )
    if path.resolve() == (BUNDLED / variant).resolve():
        raise WeightsError(f"{path} is {variant!r} itself, which cannot name itself; name another variant")
    _read_state(path, _INTRA, own)
    digests = {name: digest for name, digest in config["sha256"].items() if name != _INTRA}
    entries = config | {"intra": {"variant": variant, "sha256": own}, "sha256": digests}
    # last: a folder cut off between the two steps says which file is too many
    fresh = path / "config.json.new"
    fresh.write_bytes(_config_bytes(entries))
    fresh.replace(path / "config.json")
    (path / _INTRA).unlink()


def push_folder(
    path: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    commit_message: str = "Upload weights with lvc_zoo",
    token: str | bool | None = None,
) -> str:
    """Publishes a weights folder, verified first, as one commit of a Hub repository, which is made if need be.

    Weight files of an earlier commit that this folder lacks are deleted: config and weights always fit together.

    Args:
        path: the weights folder.
        repo_id: "owner/repo".
        private: make a new repository private.
        commit_message: first line of the commit.
        token: Hub token with write access; None is the client's own.

    Returns:
        "owner/repo@commit", a source for `resolve`.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    path = Path(path)
    config, _ = read_folder(path)
    if "intra" in config:
        raise WeightsError(
            f"{path} names the intra codec of {config['intra']['variant']!r} instead of holding one, expected a full "
            "folder; load it and write it with save_pretrained"
        )
    api = HfApi(token=token, library_name=_LIBRARY, library_version=_version())
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    shown = [name for name in ("README.md", *config.get("pictures", [])) if (path / name).exists()]
    names = ["config.json", *config["sha256"], *shown]
    stale = {name for name in api.list_repo_files(repo_id) if name.endswith(".safetensors")} - set(names)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationAdd(name, str(path / name)) for name in names),
        *(CommitOperationDelete(name) for name in sorted(stale)),
    ]
    commit = api.create_commit(repo_id, operations, commit_message=commit_message)
    return Origin("hub", repo_id, commit.oid).text


def model_card(config: Mapping[str, Any], results: Sequence[Mapping[str, object]] | None = None) -> str:
    """Gives a README.md with the Hub's metadata in front.

    Args:
        config: the entries of ``config.json``; all but "sha256" are shown, "pictures" as pictures. The runs under
            "training" of "metadata", oldest first, become a section of their own.
        results: rows of one table, each a dict by column.

    Example:
        >>> card = model_card({"variant": "biecvc-tiny", "codec": "BiECVC", "config": {}}, [{"q": 21, "bpp": 0.1}])
        >>> print(card[card.index("## Results"):].strip())
        ## Results
        <BLANKLINE>
        | q | bpp |
        | --- | --- |
        | 21 | 0.1 |
    """
    variant, codec = config["variant"], config["codec"]
    shown = {key: value for key, value in config.items() if key not in ("format", "sha256", "pictures", "metadata")}
    metadata = dict(config.get("metadata") or {})
    runs = metadata.pop("training", None) or []
    shown |= {"metadata": metadata} if metadata else {}
    lines = [
        "---",
        "library_name: lvc_zoo",
        "license: apache-2.0",
        "pipeline_tag: video-to-video",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in ("learned-video-compression", "video-compression", codec.lower())),
        "---",
        "",
        f"# {variant}",
        "",
        f"Weights of the learned video codec `{codec}` for lvc_zoo, as safetensors; `config.json` holds their digests.",
        "",
        "```python",
        f"from lvc_zoo import {codec}",
        "",
        f'codec = {codec}.from_pretrained("owner/repo")  # or this folder',
        "data = codec.compress(frames, q=32)  # (T, 3, H, W) in [0, 1] -> bytes",
        "```",
        "",
        "## Configuration",
        "",
        "```json",
        _short_json(shown),
        "```",
        "",
    ]
    if runs:
        lines += ["## Training", "", "One run after the other; `config.json` tells stage tables and data in full.", ""]
        lines += [f"{i}. {_in_words(run)}" for i, run in enumerate(runs if isinstance(runs, list) else [runs], 1)]
        lines += [""]
    for name in config.get("pictures", ()):
        lines += [f"![{Path(name).stem}]({name})", ""]
    if results:
        columns = list(dict.fromkeys(column for row in results for column in row))
        rows = [columns, ["---"] * len(columns), *([str(row.get(column, "")) for column in columns] for row in results)]
        lines += ["## Results", "", *(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join(lines)


def _short_json(data: Mapping[str, Any]) -> str:
    """JSON with a line for each entry that holds no object."""

    def lines(value: object, indent: str) -> str:
        if not (isinstance(value, dict) and value):
            return json.dumps(value, allow_nan=False)
        inner = ",\n".join(f"{indent}  {json.dumps(key)}: {lines(item, indent + '  ')}" for key, item in value.items())
        return f"{{\n{inner}\n{indent}}}"

    return lines(dict(data), "")


def _in_words(run: object) -> str:
    """A run's record on one line, without what is None, empty or nested."""
    if not isinstance(run, dict):
        return str(run)

    def is_plain(value: object) -> bool:
        items = value if isinstance(value, list) else [value]
        return value not in (None, [], "") and not any(isinstance(item, (dict, list)) for item in items)

    said = {key: value for key, value in run.items() if is_plain(value)}
    return "; ".join(f"{key}: {v if isinstance(v, str) else json.dumps(v, allow_nan=False)}" for key, v in said.items())


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Gives the SHA-256 of names, types, shapes and bytes, 64 hex digits, whatever the order, device or layout.

    Example:
        >>> weight = torch.arange(6.0).reshape(2, 3)
        >>> state_digest({"w": weight, "b": weight[0]}) == state_digest({"b": weight[0].clone(), "w": weight})
        True
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(json.dumps([name, dtype, list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_layout(path: Path, names: Iterable[str], source: str) -> None:
    """Refuses a listing that is not a weights folder's."""
    names = sorted(names)
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        raise WeightsError(
            f"{source!r} holds pickled weights only ({', '.join(pickles)}), which may run code when loaded; expected "
            f"safetensors: convert them with `lvc-zoo convert <variant> {pickles[0]} OUTDIR`"
        )
    if "config.json" not in names:
        raise WeightsError(
            f"{source!r} has no config.json (in {path}: {', '.join(names) or 'nothing'}), expected a weights folder; "
            "write one with save_pretrained or `lvc-zoo convert`"
        )


def check_replaceable(path: Path) -> None:
    """Refuses to overwrite what `write_folder` did not write.

    Args:
        path: a weights folder, an empty one, or none yet.

    Raises:
        WeightsError: naming the files that stand in the way.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    foreign = ["not a folder"]
    if path.is_dir():
        try:
            pictures, kind = read_config(path).get("pictures", []), []
        except WeightsError:
            pictures, kind = [], ["config.json of another kind"]
        known = ("config.json", "README.md", *pictures)
        foreign = sorted(
            file.name for file in path.iterdir() if file.name not in known and file.suffix != ".safetensors"
        )
        foreign = foreign or kind
    if foreign:
        raise WeightsError(f"{path} is not a weights folder ({', '.join(foreign)}) and is left alone; name another one")


def _read_state(path: Path, name: str, expected: object) -> dict[str, Tensor]:
    if not name.endswith(".safetensors") or Path(name).name != name:
        raise WeightsError(
            f"{path / 'config.json'} lists the weights file {name!r}, expected NAME.safetensors beside it"
        )
    remedy = "download it again (delete the copy in the Hub cache first) or write the folder with save_pretrained"
    try:
        content = (path / name).read_bytes()
    except FileNotFoundError as error:
        raise WeightsError(f"weights file {path / name} is missing, expected sha256 {expected}; {remedy}") from error
    got = hashlib.sha256(content).hexdigest()
    if got != expected:
        raise WeightsError(f"weights file {path / name} has sha256 {got}, expected {expected}; {remedy}")
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"weights file {path / name} is not safetensors: {error}; {remedy}") from error


def _bundled_intra(variant: str) -> str:
    """SHA-256 of the intra codec's file of a bundled variant."""
    if variant not in bundled_names():
        raise WeightsError(f"no bundled weights are named {variant!r}{nearest_names(variant, bundled_names())}")
    digest = read_config(BUNDLED / variant)["sha256"].get(_INTRA)
    if digest is None:
        raise WeightsError(f"bundled {variant!r} has no {_INTRA} of its own; name the variant that it names")
    return str(digest)


def _read_shared_intra(path: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    variant, expected = config["intra"]["variant"], config["intra"]["sha256"]
    if _INTRA in config["sha256"]:
        raise WeightsError(f"{path} holds {_INTRA} and names that of {variant!r}, expected one; write it again")
    got = _bundled_intra(variant)
    if got != expected:
        raise WeightsError(
            f"the weights in {path} need the intra codec of bundled {variant!r} with sha256 {expected}, this package "
            f"has {got}; use the version that they came with"
        )
    return _read_state(BUNDLED / variant, _INTRA, expected)


def _config_bytes(entries: Mapping[str, Any]) -> bytes:
    return (json.dumps(entries, indent=2, allow_nan=False) + "\n").encode()


def _to_safetensors(state: Mapping[str, Tensor]) -> bytes:
    # A copy each: safetensors refuses tensors that share memory, which `contiguous` alone would leave shared.
    copies = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    return safetensors.torch.save(copies, metadata={"format": "pt"})


def _download(
    repo: str,
    revision: str | None,
    local_files_only: bool,
    cache_dir: str | os.PathLike[str] | None,
    token: str | bool | None,
) -> WeightsFolder:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = f"revision {revision!r}" if revision else "its default revision"
    fetch = f"hf download {repo}" + (f" --revision {revision}" if revision else "")
    try:
        snapshot = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=["*.safetensors", "*.json", "*.md"],
            local_files_only=local_files_only,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            token=token,
            library_name=_LIBRARY,
            library_version=_version(),
        )
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"Hub repository {repo!r} does not exist, or is private or gated, and no folder {repo!r} exists here; "
            "check the spelling, or log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(f"Hub repository {repo!r} has no {at}; expected a branch, a tag or a full commit") from error
    except LocalEntryNotFoundError as error:
        raise WeightsError(
            f"Hub repository {repo!r} at {at} is not complete in the cache, and the Hub was not asked (offline mode or "
            f"local_files_only) or not reached: {error}; fill the cache once with a connection: `{fetch}`"
        ) from error
    except HfHubHTTPError as error:
        raise WeightsError(f"Hub repository {repo!r} at {at} could not be downloaded: {error}; try again") from error
    path = Path(snapshot)
    names = _names(path)
    if not any(name.endswith(".safetensors") for name in names) and not local_files_only:
        with contextlib.suppress(Exception):  # the full listing only makes the refusal clearer
            names = HfApi(token=token, library_name=_LIBRARY, library_version=_version()).list_repo_files(
                repo, revision=path.name
            )
    _check_layout(path, names, repo)
    return WeightsFolder(path, Origin("hub", repo, path.name))


def _version() -> str:
    """How the Hub client introduces this package; not from ``lvc_zoo.__init__``, which lies on a floor above."""
    try:
        return metadata.version(_LIBRARY)
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "0"


def _names(path: Path) -> list[str]:
    return [file.name for file in path.iterdir()] if path.is_dir() else []


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return entries


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
