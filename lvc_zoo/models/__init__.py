"""The zoo: models by name."""

from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatch
from typing import Any

from ..codec.video import VideoCodec
from ..config import with_overrides
from . import biecvc, dcvc_intra
from .biecvc import BiECVC
from .dcvc_intra import DCVCDCIntra

_CODECS: tuple[tuple[type[VideoCodec], Mapping[str, Any]], ...] = (
    (BiECVC, biecvc.VARIANTS),
    (DCVCDCIntra, dcvc_intra.VARIANTS),
)


def list_models(pattern: str = "*") -> list[str]:
    """Names of all variants that match a glob pattern.

    Example:
        >>> list_models("biecvc*")
        ['biecvc', 'biecvc-tiny']
    """
    return sorted(name for _, variants in _CODECS for name in variants if fnmatch(name, pattern))


def codec_class(name: str) -> tuple[type[VideoCodec], Any]:
    """Class and config of a variant.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
    """
    for codec, variants in _CODECS:
        if name in variants:
            return codec, variants[name]
    near = get_close_matches(name, list_models(), n=3, cutoff=0.3)
    raise ValueError(f"unknown model {name!r}; nearest: {', '.join(near) or 'none'}; list_models() has all")


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


__all__ = ["BiECVC", "DCVCDCIntra", "codec_class", "create_model", "list_models"]
