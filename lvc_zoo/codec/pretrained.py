"""Loading and saving codecs: bundled names, folders and the Hugging Face Hub."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from .. import hub
from ..config import strict_from_dict, to_dict
from ..errors import WeightsError

Codec = TypeVar("Codec", bound="Pretrained")


class Pretrained:
    """Mixin of `VideoCodec`: `from_pretrained`, `save_pretrained`, `push_to_hub`.

    Attributes:
        variant: name of the architecture with its size, for example "biecvc-tiny"; "custom" until one is given.
        origin: "owner/repo@commit" of weights from the Hub, "" otherwise.
        metadata: free entries of config.json, for example how the weights were trained.
    """

    config_type: ClassVar[type]
    config: Any
    variant: str = "custom"
    origin: str = ""
    metadata: Mapping[str, Any] = {}

    @classmethod
    def from_pretrained(
        cls: type[Codec],
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | None = None,
    ) -> Codec:
        """Load a codec in evaluation mode, ready to code.

        Args:
            source: a bundled name ("biecvc-tiny", works offline), a folder, or "owner/repo[@revision]" on the Hub.
            revision: branch, tag or commit of a Hub repository.
            local_files_only: take a Hub repository from the cache, without any request.
            cache_dir: of the Hub client; None is its default.
            token: for private repositories.

        Raises:
            WeightsError: for missing, altered or ill-fitting weights.
            ValueError: for an unknown name (with the nearest) or a config with unknown keys.
        """
        folder = hub.resolve(
            source, revision=revision, local_files_only=local_files_only, cache_dir=cache_dir, token=token
        )
        entries, states = hub.read_folder(folder.path)
        codec_class = cls._class_named(entries.get("codec"))
        codec = codec_class(strict_from_dict(codec_class.config_type, entries["config"], where="config"))  # type: ignore[call-arg]
        codec.load_states(states)
        codec.variant = entries["variant"]
        codec.origin = folder.origin.text if folder.origin.kind == "hub" else ""
        codec.metadata = entries.get("metadata", {})
        return codec

    @classmethod
    def _class_named(cls: type[Codec], name: object) -> type[Codec]:
        known = {sub.__name__: sub for sub in (cls, *_subclasses(cls))}
        if name not in known:
            raise WeightsError(
                f"the weights are of codec {name!r}, expected {' or '.join(known)}; load them with that class"
            )
        return known[name]

    def load_states(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load state dicts by network name, strictly, and enter evaluation mode.

        Args:
            states: for each network ("intra", "inter") its full state dict; 16-bit values are widened.

        Raises:
            WeightsError: naming missing and unexpected entries and wrong shapes.
        """
        assert isinstance(self, nn.Module)
        networks = {name: part for name, part in self.named_children() if isinstance(part, nn.Module)}
        if set(states) != set(networks):
            raise WeightsError(f"weights hold the networks {sorted(states)}, expected {sorted(networks)}")
        for name, network in networks.items():
            _load_strictly(name, network, states[name])
        self.eval()

    def save_pretrained(
        self,
        path: str | os.PathLike[str],
        *,
        dtype: torch.dtype = torch.float32,
        metadata: Mapping[str, Any] = {},
        pictures: Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        """Write a folder that `from_pretrained` reads: config.json, safetensors, model card.

        Args:
            path: folder; an earlier one of ours is replaced, another non-empty one refused.
            dtype: of the stored parameters; the entropy tables are made from the stored values, so float16 is exact.
            metadata: entries for config.json, added to those that the codec was loaded with.
            pictures: PNG files to copy into the folder and to show in its model card, such as a training curve.

        Raises:
            ValueError: a picture is not called NAME.png.
            WeightsError: another folder that is not empty lies there.
            OSError: a picture cannot be read, or the folder not written.
        """
        assert isinstance(self, nn.Module)
        stored = type(self)(self.config)
        stored.load_state_dict(self.state_dict())
        with torch.no_grad():
            for parameter in stored.parameters():
                parameter.copy_(parameter.to(dtype).float())
        stored.eval()
        states = {name: _narrowed(part, dtype) for name, part in stored.named_children()}
        entries = {
            "variant": self.variant,
            "codec": type(self).__name__,
            "config": to_dict(self.config),
            "metadata": {**self.metadata, **metadata},
        }
        pictures = list(pictures)
        shown = {"pictures": [Path(picture).name for picture in pictures]}
        hub.write_folder(path, entries, states, hub.model_card(entries | shown), pictures)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        commit_message: str = "Upload with lvc_zoo",
        token: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> str:
        """Upload what `save_pretrained` writes; returns the address or hash of the commit."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype=dtype)
            return hub.push_folder(folder, repo_id, private=private, commit_message=commit_message, token=token)


def _load_strictly(name: str, network: nn.Module, state: Mapping[str, Tensor]) -> None:
    try:
        network.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        raise WeightsError(f"weights of {name} do not fit: {error}") from error


def _narrowed(network: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state dict of a network, its parameters in `dtype`."""
    parameters = {name for name, _ in network.named_parameters()}
    return {key: value.to(dtype) if key in parameters else value for key, value in network.state_dict().items()}


def _subclasses(cls: type[Any]) -> list[type[Any]]:
    direct: list[type[Any]] = cls.__subclasses__()
    return [sub for parent in direct for sub in (parent, *_subclasses(parent))]
