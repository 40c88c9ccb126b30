"""Merging what the layers set, and what is said about a value."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from flowtune_cli.config.checker import Checker
from flowtune_cli.config.layers import Origin, Setting
from flowtune_cli.registry import load_registry

ORIGIN = Origin("file", "f")


def merged(kind: Any, *settings: tuple[str, Any]) -> tuple[Any, list[str]]:
    checker = Checker(load_registry())
    entries = [(tuple(name.split(".")), Setting(value, ORIGIN)) for name, value in settings]
    value = checker.merge(kind, (), entries)
    assert {origin for origin, _ in checker.problems} <= {ORIGIN}
    return value, [text for _, text in checker.problems]


TABLE = {"a": {"b": int, "c": int | None}, "d": dict[str, int], "e": str}


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ([("a.b", 1), ("a.c", 2), ("e", "x"), ("a.b", 4)], {"a": {"b": 4, "c": 2}, "e": "x"}),
        ([("a", {"b": 1, "c": 2}), ("a.b", 3)], {"a": {"b": 3, "c": 2}}),
        ([("a.b", 1), ("a", {"c": ""})], {"a": {"b": 1, "c": None}}),
        ([("d", {"x": 1}), ("d", {"y": 2})], {"d": {"y": 2}}),
    ],
)
def test_later_entries_override_earlier_ones(settings: Any, value: Any) -> None:
    assert merged(TABLE, *settings) == (value, [])


def test_of_what_nothing_is_known_tables_and_values_override_each_other() -> None:
    settings = [("x.y", 1), ("x.z", 2), ("w", {"v": 1}), ("w", 3), ("x", {"y": 3}), ("v", 1)]
    assert merged(Any, *settings) == ({"x": {"y": 3, "z": 2}, "w": 3, "v": 1}, [])
    assert merged(Any, ("w", 3), ("w.v", 1)) == ({"w": {"v": 1}}, [])


def test_an_overridden_value_is_not_checked() -> None:
    assert merged(TABLE, ("e", 3), ("e", "x")) == ({"e": "x"}, [])
    assert merged(TABLE, ("e", "x"), ("e", 3)) == ({}, ["e should be a valid string, not 3"])


class Own(BaseModel):
    many: list[str] = []
    needed: int

    @field_validator("many", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if value == "no":
            raise ValueError("not this")
        return value.split(",") if isinstance(value, str) else value


def test_the_validators_of_a_model_are_its_own() -> None:
    assert merged(Own, ("many", "a,b")) == ({"many": "a,b"}, [])
    assert merged(Own, ("many", "no")) == ({}, ["many is refused: not this"])
    assert merged(Own, ("many", 3)) == ({}, ["many should be a valid array, not 3"])


class Open(BaseModel, extra="allow"):
    known: int = 1


def test_a_model_may_take_any_setting() -> None:
    assert merged(Open, ("known", 2), ("other.x", 3)) == ({"known": 2, "other": {"x": 3}}, [])
    assert merged(Open, ("known", "x"))[1] == ["known should be a valid integer, not 'x'"]
    assert merged(Own, ("other", 3))[1] == ["unknown section 'other'. Known: many, needed."]
