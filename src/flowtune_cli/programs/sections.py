"""Adds a program's task to a settings file, whose own text and comments stay as they are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.layers import tomllib
from ..config.template import toml_value
from ..flow.errors import UsageError
from ..flow.paths import is_remote
from .settings import ProgramSettings

_PATHS = ("function", "reward", "data")


def section(name: str, values: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables of a task and its nodes as TOML; without values, the nodes' alone."""
    parts = [_table(("tasks", name), values)] if values else []
    parts += [_table(("tasks", name, "nodes", node), table) for node, table in nodes.items()]
    return "\n".join(parts)


def values_to_write(values: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """A task's settings that are no defaults; paths are relative to ``directory`` where in it."""
    written = {}
    for name, field in ProgramSettings.model_fields.items():
        value = values.get(name)
        default = field.get_default()
        if value is None or value == default or (value == [] and default == ()):
            continue
        if name == "directory":
            if Path(value) == directory or values.get("program") is None:
                continue
            value = _relative(value, directory)
        elif name in _PATHS:
            value = _relative(value, directory)
        written[name] = value
    return written


def with_section(
    old: bytes, name: str, values: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]
) -> bytes:
    """The bytes of a settings file with a program's task in it.

    Args:
        values: those of the task; what the file says already stays.
        nodes: tables that the file does not have.

    Raises:
        UsageError: it cannot be added to; shows what is to be written by hand.
    """
    before = tomllib.loads(old.decode("utf-8-sig"))
    table = before.get("tasks", {}).get(name)
    new_values = {k: v for k, v in values.items() if not isinstance(table, dict) or k not in table}
    if isinstance(table, dict):
        text = _inserted(old.decode("utf-8"), name, new_values)
        added = section(name, {}, nodes)
    else:
        text = old.decode("utf-8")
        added = section(name, new_values, nodes)
    gap = "" if not text.strip() else "\n" if text.endswith("\n") else "\n\n"
    new = text + gap + added
    expected = _merged(before, name, new_values, nodes)
    try:
        good = tomllib.loads(new.removeprefix("\ufeff")) == expected
    except tomllib.TOMLDecodeError:
        good = False
    if not good:
        by_hand = section(name, new_values, nodes)
        raise UsageError(
            f"the settings file writes [tasks.{name}] in a way that cannot be added to. Add this"
            f" by hand:\n{by_hand}"
        )
    return new.encode("utf-8")


def _inserted(text: str, name: str, values: Mapping[str, Any]) -> str:
    """The text with further settings behind the head of the task's table."""
    if not values:
        return text
    head = re.compile(
        rf"^[ \t]*\[[ \t]*tasks[ \t]*\.[ \t]*\"?{re.escape(name)}\"?[ \t]*\][^\n]*\n", re.MULTILINE
    )
    found = head.search(text)
    if found is None:
        return text
    lines = "".join(f"{key} = {toml_value(value)}\n" for key, value in values.items())
    return text[: found.end()] + lines + text[found.end() :]


def _merged(
    before: Mapping[str, Any], name: str, values: Mapping[str, Any], nodes: Mapping[str, Any]
) -> dict[str, Any]:
    tasks = dict(before.get("tasks", {}))
    table = dict(tasks.get(name, {}))
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    inner = {**table.get("nodes", {}), **{node: dict(each) for node, each in nodes.items()}}
    tasks[name] = {**table, **plain, **({"nodes": inner} if inner else {})}
    return {**before, "tasks": tasks}


def _table(names: Sequence[str], values: Mapping[str, Any]) -> str:
    lines = [f"[{'.'.join(names)}]", *(f"{key} = {toml_value(v)}" for key, v in values.items())]
    return "\n".join(lines) + "\n"


def _relative(value: str, directory: Path) -> str:
    if is_remote(value):
        return value
    relative = os.path.relpath(value, directory)
    return value if relative.startswith(os.pardir) else relative
