"""Effects: what a flow does besides calling nodes, how it is known, and how it ended."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .value_digest import NoDigest, value_digest

Key = tuple[str, ...]
"""A call's node, digest of what it shows, and how many such calls were made before; or an effect's
function, arguments and occurrence."""


@dataclass(frozen=True)
class EffectOptions:
    """How an effect is run; see ``Episode.effect``."""

    stateful: bool = False
    timeout: float | None = None
    retries: int | None = None


@dataclass(frozen=True)
class EffectEnd:
    """How an effect ended: with a result, or with an exception.

    Args:
        result: as JSON text; None where it raised.
        error: what it raised, raised again wherever the effect is replayed.
    """

    result: str | None = None
    error: Exception | None = None

    def value(self) -> Any:
        """A new copy of the result.

        Raises:
            Exception: the effect's own.
        """
        if self.error is not None:
            raise self.error.with_traceback(None)
        assert self.result is not None
        return json.loads(self.result)


@dataclass(frozen=True)
class EffectRecord:
    """An effect that a flow has got the end of.

    Args:
        steps: how many of the episode's calls had been made before it.
        name: the function's.
        args: as JSON text.
        result: as JSON text; None where it raised.
        error: the exception's type and message; None where it returned.
        again: in a rollout: its end is that of the episode's own.
    """

    steps: int
    name: str
    args: str
    result: str | None
    error: str | None
    again: bool = False

    @property
    def call_text(self) -> str:
        """The call as a person reads it."""
        return f"{self.name}({self.args[1:-1]})"

    @property
    def end_text(self) -> str:
        """How it ended, as a person reads it."""
        return f"raised {self.error}" if self.result is None else self.result


def effect_name(function: Callable[..., Any]) -> str:
    """How a function is named: its module and qualified name."""
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    # What is written in C, such as str.upper or {}.get, names no module, but its type does.
    kind = getattr(named, "__objclass__", None) or type(getattr(named, "__self__", None))
    module = getattr(named, "__module__", None) or kind.__module__
    return f"{module}.{named.__qualname__}"


def captured_digest(function: Callable[..., Any]) -> str:
    """A digest of what a function brings along besides its name; empty where that is nothing.

    That is the code of a lambda or an inner function with the variables that it uses from around
    it, and the arguments of a ``functools.partial``. Objects of classes that do not say when two
    are equal (a client, an iterator) count by their type.
    """
    if isinstance(function, functools.partial):
        given = [
            *function.args,
            *(item for pair in sorted(function.keywords.items()) for item in pair),
        ]
        return _joined([captured_digest(function.func), *map(_digest, given)])
    code = getattr(function, "__code__", None)
    if code is None or "<" not in function.__qualname__:
        return ""
    parts = [code.co_code.hex(), repr(code.co_names)]
    parts += [repr(const) for const in code.co_consts if not inspect.iscode(const)]
    around = inspect.getclosurevars(function).nonlocals
    parts += [f"{name} {_digest(value)}" for name, value in sorted(around.items())]
    parts += map(_digest, getattr(function, "__defaults__", None) or ())
    parts += map(_digest, sorted((getattr(function, "__kwdefaults__", None) or {}).items()))
    return _joined(parts)


def _digest(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return _joined(["list", *map(_digest, value)])
    if isinstance(value, dict):
        return _joined(
            ["dict", *sorted(_joined([_digest(k), _digest(v)]) for k, v in value.items())]
        )
    if inspect.isfunction(value) and "<" in value.__qualname__:
        return _joined([effect_name(value), captured_digest(value)])
    with suppress(NoDigest):
        if value is None or type(value).__eq__ is not object.__eq__ or callable(value):
            return value_digest(value)
    return effect_name(type(value))


def _joined(parts: list[str]) -> str:
    text = json.dumps(parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def strict_json(value: Any, what: str, *, sort_keys: bool = False) -> str:
    """A value as JSON text, from which it can be read again; a tuple is read as a list.

    Args:
        what: how a message names the value.

    Raises:
        TypeError: it holds what is no JSON value; names the place.
    """
    _check(value, what)
    return json.dumps(value, sort_keys=sort_keys)


def _check(value: Any, place: str) -> None:
    if value is None or isinstance(value, (str, bool, int, float)):
        return
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _check(item, f"{place}[{number}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(
                    f"{place} has the key {key!r}, and the keys of a JSON object are texts"
                )
            _check(item, f"{place}[{key!r}]")
    else:
        raise TypeError(
            f"{place} is a {type(value).__qualname__}, and must be a JSON value: a text, a number,"
            " True, False, None, or a list or dict of these"
        )


def error_to_json(error: Exception) -> dict[str, Any] | None:
    """An exception as JSON values; None where it could not be made from them again."""
    made = {"type": effect_name(type(error)), "args": list(error.args)}
    try:
        text = strict_json(made, "it")
    except TypeError:
        return None
    again = error_from_json(json.loads(text))
    same = type(again) is type(error) and str(again) == str(error)
    return made if same else None


def error_from_json(made: Mapping[str, Any]) -> Exception | None:
    """The exception that ``error_to_json`` was given; None where its class is not loaded."""
    module, _, name = made["type"].rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    if not isinstance(kind, type) or not issubclass(kind, Exception):
        return None
    try:
        return kind(*made["args"])
    except Exception:  # it wants other arguments than it keeps
        return None
