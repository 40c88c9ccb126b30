"""Where settings are given: file, environment and command line, each read into assignments."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..flow.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "FLOWTUNE_"
CHOICES = {
    "optimizer": ("optimizer_options", "node_options", "calibration_options"),
}
"""Settings that choose something, and the settings that hold the options of what is chosen."""


@dataclass(frozen=True)
class Assignment:
    """One setting that is given a value.

    Args:
        path: ``("training", "seed")``; tables are taken apart, so the value is never a table
            with something in it.
        origin: where it was given, as a person would say it.
        text: as typed, where it was typed as text; what it is when a text is wanted.
        loose: its names are a variable's: upper and lower case are one, and ``_`` may be ``-``.
    """

    path: tuple[str, ...]
    value: Any
    origin: str
    text: str | None = None
    loose: bool = False

    @property
    def key(self) -> str:
        return ".".join(self.path)


Layer = list[Assignment]


def from_defaults(task: str, defaults: Mapping[str, Any]) -> Layer:
    """What a task sets: ``{"section.key": value}``."""
    origin = f"task {task}"
    return _layer(Assignment(tuple(k.split(".")), v, origin) for k, v in defaults.items())


def from_stored(values: Mapping[str, Any], origin: str) -> Layer:
    """Settings as a run stored them."""
    return _layer([Assignment((), values, origin)])


def from_file(file: Path) -> Layer:
    """A settings file. The origin of each assignment is ``file:line``.

    Raises:
        UsageError: it cannot be read, or it is not TOML.
    """
    try:
        text = file.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"cannot read the settings file {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not a TOML file: {error}") from None
    lines = key_lines(text)

    def origin(path: tuple[str, ...]) -> str:
        # What stands inside an inline table is on the line of the key that the table belongs to.
        known = next(path[:n] for n in range(len(path), 0, -1) if path[:n] in lines)
        return f"{file}:{lines[known]}"

    flat = _flatten(Assignment((), document, ""))
    return _layer(Assignment(a.path, a.value, origin(a.path)) for a in flat)


def from_environment(environ: Mapping[str, str]) -> Layer:
    """Variables such as ``FLOWTUNE_TRAINING__SEED``. Those without ``__`` are not settings."""
    found = []
    for name in sorted(environ):
        rest = name.upper().removeprefix(PREFIX)
        if rest != name.upper() and "__" in rest:
            path = tuple(rest.lower().split("__"))
            text = environ[name]
            found.append(Assignment(path, toml_or_text(text), f"environment {name}", text, True))
    return _layer(found)


def from_overrides(overrides: Sequence[str]) -> Layer:
    """The values of ``--set``, the last of the same key wins.

    Raises:
        UsageError: one is not ``section.key=value``.
    """
    found = []
    for override in overrides:
        key, equals, text = override.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not equals or len(path) < 2 or not all(path):
            raise UsageError(
                f"--set wants section.key=value, such as training.seed=7: '{override}'"
            )
        found.append(Assignment(path, toml_or_text(text.strip()), "--set", text.strip()))
    return _layer(found)


def from_flags(flags: Mapping[str, Any]) -> Layer:
    """The options that set one setting each; None was not given.

    ``training.limit`` is given by ``--limit``; ``model.name`` by ``--model``.
    """
    found = []
    for key, value in flags.items():
        path = tuple(key.split("."))
        option = path[-2] if path[-1] == "name" else path[-1]
        if value is not None:
            found.append(Assignment(path, value, f"--{option.replace('_', '-')}"))
    return _layer(found)


def toml_or_text(text: str) -> Any:
    """A TOML value (``7``, ``[1, 2]``, ``{a = 1}``), or the text itself where it is none."""
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return document["value"] if len(document) == 1 else text


def _layer(assignments: Iterable[Assignment]) -> Layer:
    """Taken apart, what chooses before the options of what it chooses."""
    flat = [leaf for assignment in assignments for leaf in _flatten(assignment)]
    return sorted(flat, key=lambda assignment: assignment.path[-1] not in CHOICES)


def _flatten(given: Assignment) -> Iterator[Assignment]:
    if not isinstance(given.value, Mapping) or (given.path and not given.value):
        yield given
        return
    for key, value in given.value.items():
        inner = Assignment((*given.path, key), value, given.origin, None, given.loose)
        yield from _flatten(inner)


_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEYS = re.compile(rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*")
_SPACE = re.compile(r"(?:\s+|#[^\n]*)+")
_VALUE_PART = re.compile(
    r'''"""(?:[^\\]|\\.)*?""""{0,2}|\'\'\'.*?\'\'\'\'{0,2}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|#[^\n]*|.''',
    re.DOTALL,
)


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line, counted from 1, on which each key and table of a valid TOML text stands."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    at = 0
    while True:
        space = _SPACE.match(text, at)
        at = space.end() if space else at
        if at >= len(text):
            return lines
        line = text.count("\n", 0, at) + 1
        header = re.compile(r"\[\[?[ \t]*").match(text, at)
        keys = _KEYS.match(text, header.end() if header else at)
        assert keys is not None
        path = _names(keys[0])
        if header:
            table = path
            at = text.index("]", keys.end())
            at += len(header[0].strip())
        else:
            path = (*table, *path)
            at = _value_end(text, text.index("=", keys.end()) + 1)
        for depth in range(1, len(path) + 1):
            lines.setdefault(path[:depth], line)


def _names(keys: str) -> tuple[str, ...]:
    names = []
    table = tomllib.loads(f"{keys} = 0")
    while table != 0:
        [(name, table)] = table.items()  # type: ignore[attr-defined]
        names.append(name)
    return tuple(names)


def _value_end(text: str, at: int) -> int:
    """The end of the value that begins at ``at``: the line's, outside of brackets."""
    depth = 0
    while part := _VALUE_PART.match(text, at):
        at = part.end()
        if part[0] in ("[", "{"):
            depth += 1
        elif part[0] in ("]", "}"):
            depth -= 1
        elif part[0] == "\n" and depth == 0:
            break
    return at
