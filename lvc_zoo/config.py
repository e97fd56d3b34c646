"""Strict reading of frozen dataclasses from JSON-like data: a typo is an error, never a default.

A field may be a bool, int, float, str, Enum (stored by value), Literal, tuple (stored as a list), another such
dataclass, or a union of these, ``None`` included.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar

from .errors import nearest_names

T = TypeVar("T")


def strict_from_dict(dataclass_type: type[T], data: Mapping[str, Any], where: str = "config") -> T:
    """Builds a dataclass from the dict that `to_dict` gives; fields with a default may be left out.

    Args:
        dataclass_type: a dataclass, its fields annotated with the types named above.
        data: one entry per field, nested dataclasses as dicts, tuples as lists.
        where: name of the data in error messages.

    Raises:
        ValueError: an unknown or missing key, a value of another type, or a value that the dataclass refuses.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Encoder:
        ...     channels: tuple[int, ...]
        ...     slope: float = 0.01
        >>> strict_from_dict(Encoder, {"channels": [48, 64], "slope": 0})
        Encoder(channels=(48, 64), slope=0.0)
        >>> strict_from_dict(Encoder, {"chanels": [48, 64]})
        Traceback (most recent call last):
        ValueError: config has an unknown key 'chanels'; the nearest is 'channels'
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} is {data!r}, expected a dict with the fields of {dataclass_type.__name__}")
    settings = _settings(dataclass_type)
    for key in data:
        if key not in settings:
            raise ValueError(f"{where} has an unknown key {key!r}{nearest_names(key, settings)}")
    for key, field in settings.items():
        if key not in data and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{where} lacks the key {key!r}, which {dataclass_type.__name__} needs")
    hints = typing.get_type_hints(dataclass_type)
    values = {key: _read(hints[key], value, f"{where}.{key}") for key, value in data.items()}
    try:
        return dataclass_type(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def to_dict(instance: Any) -> dict[str, Any]:
    """Gives the JSON-ready dict from which `strict_from_dict` builds an equal dataclass."""
    return {key: _write(getattr(instance, key), key) for key in _settings(type(instance))}


def with_overrides(instance: T, overrides: Mapping[str, Any]) -> T:
    """Gives a copy with some fields replaced, all at once, checked like `strict_from_dict`.

    Args:
        instance: a dataclass.
        overrides: new values by dotted path, such as ``{"motion.channels": 32}``; a whole nested dataclass may be
            given as a dict.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Size:
        ...     height: int
        ...     width: int
        >>> with_overrides(Size(16, 16), {"width": 32})
        Size(height=16, width=32)
    """
    data = to_dict(instance)
    # Shorter paths first, so that a dict for a whole dataclass does not undo a path into it.
    for path in sorted(overrides, key=lambda path: path.count(".")):
        *parents, last = path.split(".")
        target: Any = data
        for depth, parent in enumerate(parents):
            outer, target = target, target.get(parent)
            if not isinstance(target, dict):
                where = ".".join(["config", *parents[:depth]])
                reason = f"holds {target!r}, not a group of fields" if parent in outer else "is unknown"
                hint = "" if parent in outer else nearest_names(parent, outer)
                raise ValueError(f"override {path!r}: the key {parent!r} of {where} {reason}{hint}")
        target[last] = _write(overrides[path], path)
    return strict_from_dict(type(instance), data)


def _settings(dataclass_type: type) -> dict[str, Field[Any]]:
    if not is_dataclass(dataclass_type):
        raise ValueError(f"{dataclass_type.__name__} is not a dataclass; settings are read from dataclasses only")
    return {field.name: field for field in fields(dataclass_type) if field.init}


def _read(hint: Any, value: Any, where: str) -> Any:
    """One value as its annotation wants it."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _read_union(typing.get_args(hint), value, where)
    if origin is tuple:
        return _read_tuple(typing.get_args(hint), value, where)
    if origin is typing.Literal:
        return _read_choice(typing.get_args(hint), value, where)
    if is_dataclass(hint):
        return strict_from_dict(typing.cast(type, hint), value, where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(_read_choice(tuple(member.value for member in hint), value, where))
    if hint is float and type(value) is int:
        return float(value)
    if hint not in (bool, int, float, str, type(None)):
        raise ValueError(f"{where} is annotated {hint}, which cannot be read; see lvc_zoo.config for what can")
    if type(value) is not hint:
        raise ValueError(f"{where} is {value!r}, expected {_name(hint)}")
    return value


def _read_union(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in hints:
        return None
    hints = tuple(hint for hint in hints if hint is not type(None))
    if len(hints) == 1 and value is not None:
        return _read(hints[0], value, where)
    errors = []
    for hint in hints:
        try:
            return _read(hint, value, where)
        except ValueError as error:  # noqa: PERF203 - the next arm of the union may fit
            errors.append(str(error))
    raise ValueError("; or ".join(errors))


def _read_tuple(hints: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where} is {value!r}, expected a list")
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(value)
    elif len(value) != len(hints):
        raise ValueError(f"{where} has {len(value)} entries, expected {len(hints)}")
    return tuple(
        _read(hint, item, f"{where}[{index}]") for index, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _read_choice(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    for choice in choices:
        if choice == value and type(choice) is type(value):
            return choice
    raise ValueError(f"{where} is {value!r}, expected one of {', '.join(map(repr, choices))}")


def _write(value: Any, where: str) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [_write(item, where) for item in value]
    if isinstance(value, Mapping):
        return {key: _write(item, f"{where}.{key}") for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    raise ValueError(f"{where} is {value!r} of type {type(value).__name__}, which a config cannot hold")


def _name(hint: Any) -> str:
    return "None" if hint is type(None) else f"a {hint.__name__}" if hint is not int else "an int"
