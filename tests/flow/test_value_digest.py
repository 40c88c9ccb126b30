"""The digest of a value: the same for equal values in every process, another for any other."""

from __future__ import annotations

import datetime
import os
import threading
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, IntEnum
from itertools import combinations
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy
import pytest
from pydantic import BaseModel

from flowtune_cli.flow.value_digest import NoDigest, value_digest
from support.processes import python


@dataclass(frozen=True)
class Document:
    title: str
    words: frozenset[str] = frozenset()


class Pair(NamedTuple):
    a: int
    b: int


class Colour(Enum):
    RED = 1
    BLUE = 2


class Level(IntEnum):
    LOW = 1


class Record(BaseModel):
    name: str
    tags: set[str] = set()


class Plain:
    def __init__(self, text: str) -> None:
        self.text = text


class Slotted:
    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


EQUAL: list[tuple[Any, Any]] = [
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({"a": 1}, OrderedDict(a=1)),
    ({"a": 1}, MappingProxyType({"a": 1})),
    ({"a": 1}, defaultdict(list, a=1)),
    ({3, 1, 2}, frozenset([2, 3, 1])),
    ([1, "a"], (1, "a")),
    (Pair(1, 2), (1, 2)),
    (Path("a") / "b", PurePosixPath("a/b")),
    (b"a", bytearray(b"a")),
    (numpy.float64(0.5), 0.5),
    (Plain("a"), Plain("a")),
    (Slotted("a"), Slotted("a")),
    (Record(name="a", tags={"x", "y", "z"}), Record(tags={"z", "y", "x"}, name="a")),
    (Document("a", frozenset("xyz")), Document("a", frozenset("zyx"))),
    (float("nan"), float("nan")),
]

DIFFERENT: list[Any] = [
    *(
        None,
        True,
        False,
        1,
        0,
        -1,
        10**5000,
        1.0,
        -0.0,
        0.0,
        1j,
        "1",
        b"1",
        "",
        "a",
        "ab",
        "\ud800",
    ),
    *("\\ud800", ..., [], {}, set(), ["a"], ["a", "b"], ["ab"], [["a"], "b"], ["a", ["b"]]),
    *({"a": "b"}, {"a", "b"}, {("a", "b")}, {"a": None}, {1: "b"}, {"1": "b"}, {(1, 2): 3}),
    *(Path("a"), Colour.RED, Colour.BLUE, Level.LOW, Document("a"), Document("b")),
    *(
        Document("a", frozenset("a")),
        Record(name="a"),
        Record(name="b"),
        Record(name="a", tags={"a"}),
    ),
    *(Plain("a"), Plain("b"), Slotted("a"), Slotted("b"), Plain, Slotted, len, value_digest),
    *(datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1), datetime.timedelta(1)),
    *(Decimal("1.0"), Decimal("1.00"), range(3), range(4)),
    *(numpy.arange(3), numpy.arange(3.0), numpy.arange(4)[1:], numpy.zeros((3, 1)), numpy.zeros(3)),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_values_have_one_digest(one: Any, other: Any) -> None:
    assert value_digest(one) == value_digest(other)
    assert value_digest({"x": [one]}) == value_digest({"x": [other]})


def test_all_others_have_one_each() -> None:
    for one, other in combinations(DIFFERENT, 2):
        assert value_digest(one) != value_digest(other), (one, other)
        assert value_digest([one]) != value_digest([other]), (one, other)


PROCESS = """
from tests.flow.test_value_digest import DIFFERENT, EQUAL
from flowtune_cli.flow.value_digest import value_digest
print(value_digest([DIFFERENT, EQUAL]))
"""


def test_the_digest_is_the_same_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    said = set()
    monkeypatch.chdir(Path(__file__).parents[2])
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        out, _ = python(PROCESS).communicate(timeout=600)
        said.add(out)
    assert len(said) == 1
    assert len(said.pop()) == 65


def cycle() -> list[Any]:
    around: list[Any] = []
    around.append(around)
    return around


def deep() -> list[Any]:
    inner: list[Any] = []
    for _ in range(100_000):
        inner = [inner]
    return inner


def bound(value: Any) -> Any:
    return lambda: value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (threading.Lock(), r"a lock \(cannot pickle"),
        ((n for n in "ab"), r"a generator \(cannot pickle"),
        (lambda: None, "the function <lambda>"),
        (bound(1), "the function bound.<locals>.<lambda>"),
        (os, "a module"),
        (cycle(), "a list that refers to itself"),
        (deep(), "that is nested too deeply"),
    ],
)
def test_what_has_no_digest_is_named(value: Any, said: str) -> None:
    for each in (value, {"x": [value]}, Plain(value)):
        with pytest.raises(NoDigest, match=said):
            value_digest(each)


def test_an_open_file_has_no_digest(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as file, pytest.raises(NoDigest, match="a TextIOWrapper"):
        value_digest(file)


def test_a_value_twice_is_no_cycle() -> None:
    shared = ["a"]
    assert value_digest([shared, shared]) == value_digest([["a"], ["a"]])
