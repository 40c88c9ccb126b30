"""Exceptions that are kept, and what a function brings along."""

from __future__ import annotations

import functools
import json
import subprocess
from typing import Any

import pytest

from flowtune_cli.flow.effect import (
    captured_digest,
    effect_name,
    error_from_json,
    error_to_json,
)


class NeedsTwo(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no", 3),
        TimeoutError("late"),
        OSError(2, "No such file"),
        subprocess.CalledProcessError(1, "x"),
    ],
)
def test_an_exception_is_made_again(error: Exception) -> None:
    made = error_to_json(error)
    assert made is not None
    again = error_from_json(json.loads(json.dumps(made)))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again is not None
    assert again.args == error.args


@pytest.mark.parametrize(
    "error",
    [
        NeedsTwo(1, "x"),
        ValueError(object()),
        json.JSONDecodeError("Expecting value", "x", 0),
        OSError(2, "No such file", "x.txt"),
    ],
)
def test_an_exception_that_cannot_be_made_again_is_not_kept(error: Exception) -> None:
    assert error_to_json(error) is None


@pytest.mark.parametrize("name", ["nowhere.Error", "json.dumps", "builtins.KeyboardInterrupt"])
def test_a_class_that_is_none_is_not_made(name: str) -> None:
    assert error_from_json({"type": name, "args": []}) is None


class Client:
    """Says nothing of equality."""


def _lambda(x: Any) -> Any:
    return lambda: x


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ({"q": ["a"]}, {"q": ["a"]}, True),
        ({"q": ["a"]}, {"q": ["b"]}, False),
        (Client(), Client(), True),
        ([Client(), 1], [Client(), 2], False),
        (len, max, False),
        (_lambda(1), _lambda(1), True),
        (_lambda(1), _lambda(2), False),
    ],
)
def test_what_a_function_uses_from_around_it(one: Any, other: Any, same: bool) -> None:
    assert (captured_digest(_lambda(one)) == captured_digest(_lambda(other))) == same


def test_a_function_of_a_module_brings_nothing() -> None:
    assert captured_digest(_lambda) == ""
    assert captured_digest(len) == ""
    assert captured_digest("x".upper) == ""


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (str.upper, "builtins.str.upper"),
        ({}.get, "builtins.dict.get"),
        (functools.partial(len), "builtins.len"),
        (json.dumps, "json.dumps"),
        (json.JSONEncoder().encode, "json.encoder.JSONEncoder.encode"),
    ],
)
def test_functions_written_in_c_have_names_too(function: Any, name: str) -> None:
    assert effect_name(function) == name
