"""The zoo: models by name."""

import os
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .. import hub
from ..codec.container import Header, StreamReader
from ..codec.video import VideoCodec
from ..config import with_overrides
from ..errors import BitstreamError, nearest_names
from . import biecvc, dcvc_dc, dcvc_intra, dcvc_tcm, dcvc_tcm_intra, lstec
from .biecvc import BiECVC
from .dcvc_dc import DCVCDC
from .dcvc_intra import DCVCDCIntra
from .dcvc_tcm import DCVCTCM
from .dcvc_tcm_intra import DCVCTCMIntra
from .lstec import LSTEC

_CODECS: tuple[tuple[Callable[[Any], VideoCodec], Mapping[str, Any]], ...] = (
    (BiECVC, biecvc.VARIANTS),
    (DCVCDC, dcvc_dc.VARIANTS),
    (DCVCDCIntra, dcvc_intra.VARIANTS),
    (DCVCTCM, dcvc_tcm.VARIANTS),
    (DCVCTCMIntra, dcvc_tcm_intra.VARIANTS),
    (LSTEC, lstec.VARIANTS),
)


def list_models(pattern: str = "*") -> list[str]:
    """Names of all variants that match a glob pattern.

    Example:
        >>> list_models("biecvc*")
        ['biecvc', 'biecvc-tiny']
    """
    return sorted(name for _, variants in _CODECS for name in variants if fnmatch(name, pattern))


def codec_class(name: str) -> tuple[Callable[[Any], VideoCodec], Any]:
    """Class and config of a variant.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
    """
    for codec, variants in _CODECS:
        if name in variants:
            return codec, variants[name]
    raise ValueError(f"unknown model {name!r}{nearest_names(name, list_models())}; list_models() has all")


def create_model(name: str, **overrides: object) -> VideoCodec:
    """An untrained codec, in training mode.

    Args:
        name: one of `list_models()`.
        **overrides: config entries by name, nested ones with a dot, checked: an unknown one is an error.

    Example:
        >>> create_model("biecvc-tiny", gating=False).config.gating
        False
    """
    codec, config = codec_class(name)
    model = codec(with_overrides(config, overrides) if overrides else config)
    model.variant = name if not overrides else "custom"
    return model


def read_header(path: str | os.PathLike[str]) -> Header:
    """Header of an `.lvc` file.

    Raises:
        BitstreamError: where the file is not one.
    """
    with Path(path).open("rb") as file:
        return StreamReader(file).header


def load_codec_for(
    path: str | os.PathLike[str], model: str | os.PathLike[str] | None = None, *, local_files_only: bool = False
) -> VideoCodec:
    """The codec that decodes an `.lvc` file, in evaluation mode.

    Args:
        path: the file; its header names the model.
        model: bundled name, folder or "owner/repo[@revision]" of the weights. None takes the bundled ones of the
            header's name and, where these are others, the Hub repository that the header names.
        local_files_only: take Hub weights from the cache, without any request.

    Raises:
        BitstreamError: for a file that is not a stream, or whose weights cannot be found without `model`.
        DesyncError: where the weights found are not those of the stream; the message names both digests.
        WeightsError: for weights that cannot be loaded.
    """
    header = read_header(path)
    if model is not None:
        return _checked(VideoCodec.from_pretrained(model, local_files_only=local_files_only), header)
    if header.model in hub.bundled_names():
        bundled = VideoCodec.from_pretrained(header.model)
        if not header.origin or bundled.weights_digest() == header.weights_digest:
            return _checked(bundled, header)
    if not header.origin:
        raise BitstreamError(
            f"{path} was made by {header.model!r} with weights {header.weights_digest.hex()}, which are neither "
            "bundled nor from the Hub; name their folder with --model (model= in Python)"
        )
    # the prefix keeps a stream from naming a folder of this machine
    origin = VideoCodec.from_pretrained(f"hf-hub:{header.origin}", local_files_only=local_files_only)
    return _checked(origin, header)


def _checked(codec: VideoCodec, header: Header) -> VideoCodec:
    if (codec.variant, codec.weights_digest()) != (header.model, header.weights_digest):
        codec.check_header(header)
    return codec


__all__ = [
    "DCVCDC",
    "DCVCTCM",
    "LSTEC",
    "BiECVC",
    "DCVCDCIntra",
    "DCVCTCMIntra",
    "codec_class",
    "create_model",
    "list_models",
    "load_codec_for",
    "read_header",
]
