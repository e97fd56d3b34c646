"""The strict reader of frozen dataclasses."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Optional

import pytest

from lvc_zoo.config import strict_from_dict, to_dict, with_overrides


class Gate(Enum):
    NONE = "none"
    SIGMOID = "sigmoid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    channels: int = 64
    kernel: tuple[int, int] = (3, 3)

    def __post_init__(self) -> None:
        if self.channels % 4:
            raise ValueError(f"channels {self.channels} is not a multiple of 4; use {self.channels // 4 * 4 + 4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    name: str
    lambdas: tuple[float, ...]
    motion: Motion = field(default_factory=Motion)
    entropy: Motion | None = None
    gate: Gate = Gate.SIGMOID
    rule: Literal["anchors", "fine", 3] = "anchors"
    cached: bool = True
    depth: Optional[int] = None  # noqa: UP045 - both spellings are read
    grid: tuple[tuple[int, ...], ...] = ()
    scale: int | str = 1
    parameter_count: int = field(default=0, init=False)


FULL = Model(
    name="tiny",
    lambdas=(85.0, 170.5),
    motion=Motion(channels=32, kernel=(5, 1)),
    entropy=Motion(),
    gate=Gate.NONE,
    rule=3,
    cached=False,
    depth=4,
    grid=((1, 2), (3,), ()),
    scale="auto",
)


@pytest.mark.parametrize("model", [FULL, Model(name="x", lambdas=())], ids=["full", "defaults"])
def test_dataclass_through_json_is_equal(model):
    assert strict_from_dict(Model, json.loads(json.dumps(to_dict(model)))) == model


def test_to_dict_gives_plain_json_types():
    assert to_dict(FULL) == {
        "name": "tiny",
        "lambdas": [85.0, 170.5],
        "motion": {"channels": 32, "kernel": [5, 1]},
        "entropy": {"channels": 64, "kernel": [3, 3]},
        "gate": "none",
        "rule": 3,
        "cached": False,
        "depth": 4,
        "grid": [[1, 2], [3], []],
        "scale": "auto",
    }


def test_missing_keys_with_defaults_take_them():
    assert strict_from_dict(Model, {"name": "x", "lambdas": []}) == Model(name="x", lambdas=())


def test_integer_for_a_float_field_becomes_a_float():
    value = strict_from_dict(Model, {"name": "x", "lambdas": [85]}).lambdas[0]
    assert type(value) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nam": "x"}, "config has an unknown key 'nam'; the nearest is 'name'"),
        ({"parameter_count": 3}, "unknown key 'parameter_count'"),
        ({"motion": {"chanels": 8}}, r"config\.motion has an unknown key 'chanels'; the nearest is 'channels'"),
        ({"motion": 8}, r"config\.motion is 8, expected a dict with the fields of Motion"),
        ({"motion": None}, r"config\.motion is None"),
        ({"motion": {"channels": 63}}, r"config\.motion: channels 63 is not a multiple of 4"),
        ({"motion": {"kernel": [3]}}, r"config\.motion\.kernel has 1 entries, expected 2"),
        ({"lambdas": 85.0}, r"config\.lambdas is 85\.0, expected a list"),
        ({"lambdas": [85.0, "170"]}, r"config\.lambdas\[1\] is '170', expected a float"),
        ({"grid": [[1], [2.0]]}, r"config\.grid\[1\]\[0\] is 2\.0, expected an int"),
        ({"cached": 1}, r"config\.cached is 1, expected a bool"),
        ({"depth": True}, r"config\.depth is True, expected an int"),
        ({"gate": "NONE"}, r"config\.gate is 'NONE', expected one of 'none', 'sigmoid'"),
        ({"rule": "exact"}, r"config\.rule is 'exact', expected one of 'anchors', 'fine', 3"),
        ({"rule": 3.0}, r"config\.rule is 3\.0"),
        ({"scale": 1.5}, r"config\.scale is 1\.5, expected an int; or config\.scale is 1\.5, expected a str"),
        ({"scale": None}, r"config\.scale is None"),
        ({"name": None}, r"config\.name is None, expected a str"),
    ],
)
def test_wrong_entry_raises_naming_its_place(change, message):
    with pytest.raises(ValueError, match=message):
        strict_from_dict(Model, to_dict(FULL) | change)


def test_missing_key_without_default_raises():
    with pytest.raises(ValueError, match="weights lacks the key 'lambdas', which Model needs"):
        strict_from_dict(Model, {"name": "x"}, where="weights")


def test_annotation_that_cannot_be_read_raises():
    @dataclass(frozen=True)
    class Bad:
        table: dict

    with pytest.raises(ValueError, match=r"config\.table is annotated <class 'dict'>"):
        strict_from_dict(Bad, {"table": {}})
    with pytest.raises(ValueError, match="table is b'' of type bytes, which a config cannot hold"):
        to_dict(Bad(b""))


def test_overrides_by_dotted_path_change_only_those_fields():
    changed = with_overrides(FULL, {"motion.kernel": (1, 1), "cached": True, "gate": Gate.SIGMOID})
    expected = to_dict(FULL) | {"cached": True, "gate": "sigmoid", "motion": {"channels": 32, "kernel": [1, 1]}}
    assert to_dict(changed) == expected


def test_overrides_of_a_group_and_of_a_field_in_it_both_hold():
    overrides = {"motion.channels": 8, "motion": Motion(kernel=(7, 7))}
    assert with_overrides(FULL, overrides).motion == Motion(channels=8, kernel=(7, 7))


def test_overrides_that_hold_only_together_are_checked_together():
    @dataclass(frozen=True)
    class Range:
        low: int
        high: int

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low exceeds high")

    assert with_overrides(Range(0, 1), {"low": 5, "high": 6}) == Range(5, 6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"motion.chanels": 8}, r"config\.motion has an unknown key 'chanels'; the nearest is 'channels'"),
        ({"moton.channels": 8}, "override 'moton.channels': the key 'moton' of config is unknown; .*'motion'"),
        ({"name.first": 8}, "the key 'name' of config holds 'tiny', not a group of fields"),
        ({"motion.kernel.first": 8}, r"the key 'kernel' of config\.motion holds \[5, 1\]"),
        ({"depth": "4"}, r"config\.depth is '4', expected an int"),
    ],
)
def test_override_of_an_unknown_or_wrong_entry_raises(overrides, message):
    with pytest.raises(ValueError, match=message):
        with_overrides(FULL, overrides)


def test_overrides_leave_the_instance_unchanged():
    before = to_dict(FULL)
    with_overrides(FULL, {"motion.channels": 8})
    assert to_dict(FULL) == before
