"""Official checkpoints into weights folders: read without running code, renamed, every name accounted for."""

import hashlib
import inspect
import os
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..codec.video import VideoCodec
from ..errors import WeightsError
from . import codec_class, create_model, list_models

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params")
"""Entries under which trainers keep the state dict, beside optimiser and epoch."""


def convert_checkpoint(
    variant: str,
    path: str | os.PathLike[str],
    intra: str | os.PathLike[str] | None = None,
    *,
    overrides: Mapping[str, object] = {},
) -> VideoCodec:
    """A codec with the weights of official checkpoints, its entropy tables built, in evaluation mode.

    Args:
        variant: name of a model whose class has `convert`. That takes one checkpoint, or two where the I frames were
            released apart: the other frames' first, then theirs.
        path: a `.safetensors` file, or a pickle that holds nothing but tensors and plain containers.
        intra: the second file.
        overrides: config entries where the checkpoint is not of the variant's default size, see `create_model`.

    Raises:
        WeightsError: for a file that is not a checkpoint, and for missing, unexpected or ill-shaped entries.
        ValueError: for an unknown variant, one without official checkpoints, or one file too few or too many.
    """
    convert = getattr(codec_class(variant)[0], "convert", None)
    if convert is None:
        known = ", ".join(name for name in list_models() if hasattr(codec_class(name)[0], "convert"))
        raise ValueError(f"no official checkpoints of {variant!r} are known; those of {known} can be converted")
    paths = [Path(path)] if intra is None else [Path(path), Path(intra)]
    if len(paths) != (expected := len(inspect.signature(convert).parameters)):
        raise ValueError(
            f"{variant!r} has one official checkpoint, got a second one; leave out --intra (intra= in Python)"
            if expected == 1
            else f"{variant!r} needs two official checkpoints, got {paths[0]} alone; give the one of its I frames "
            "with --intra (intra= in Python)"
        )
    states = convert(*map(read_checkpoint, paths))
    codec = create_model(variant, **overrides)
    for name, network in codec.named_children():
        _load_parameters(name, network, states.pop(name, {}))
    if states:
        raise WeightsError(f"the checkpoint holds the networks {sorted(states)}, which {variant!r} does not have")
    sources = [{"file": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()} for source in paths]
    codec.metadata = {"converted_from": sources}
    return codec.eval()


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU, without the wrappers and prefixes that training leaves.

    Raises:
        WeightsError: for a file that does not load safely, or holds no state dict.
    """
    path = Path(path)
    try:
        content: Any = (
            safetensors.torch.load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (pickle.UnpicklingError, safetensors.SafetensorError, RuntimeError, EOFError, KeyError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(
            f"{path} does not load as a file of tensors alone ({reason[0]}); expected safetensors, or a .pth made by "
            "torch.save from a state dict"
        ) from error
    return strip_prefixes(_unwrap(content, path))


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside nested wrappers."""
    while isinstance(content, Mapping) and not all(isinstance(value, Tensor) for value in content.values()):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            raise WeightsError(
                f"{path} holds {_listed(map(str, content))}, expected tensors by name or one of {', '.join(WRAPPERS)}"
            )
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds {type(content).__name__}, expected tensors by name")
    return dict(content)


def strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the leading components that all names share, such as "module." or "net.".

    Example:
        >>> list(strip_prefixes({"module.net.enc.weight": torch.zeros(1), "module.net.dec.weight": torch.zeros(1)}))
        ['enc.weight', 'dec.weight']
    """
    state = dict(state)
    while len(state) > 1 and all("." in name for name in state) and len({name.split(".")[0] for name in state}) == 1:
        state = {name.split(".", 1)[1]: tensor for name, tensor in state.items()}
    return state


def _load_parameters(name: str, network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy every parameter; buffers are tables, which evaluation mode builds anew."""
    parameters = dict(network.named_parameters())
    problems = [
        f"{what}: {_listed(names)}"
        for what, names in (
            ("missing", [key for key in parameters if key not in state]),
            ("unexpected", [key for key in state if key not in parameters]),
            (
                "of another shape",
                [
                    f"{key} {tuple(state[key].shape)} instead of {tuple(parameters[key].shape)}"
                    for key in parameters
                    if key in state and state[key].shape != parameters[key].shape
                ],
            ),
        )
        if names
    ]
    if problems:
        raise WeightsError(
            f"the checkpoint does not fit network {name!r}; {'; '.join(problems)}; is it of another variant?"
        )
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(state[key])


def _listed(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
