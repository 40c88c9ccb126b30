"""Finds the program that is meant on the command line or in a settings file, as a task."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

from ..config.layers import from_environment, from_file, from_overrides
from ..config.resolve import FILE
from ..flow.errors import UsageError, unknown_name
from ..flow.node import Node
from ..flow.task import Task
from ..registry import Registry
from .loading import FunctionPlace, function_place, is_function
from .tables import declared_nodes, task_tables
from .task import ProgramTask

_OF_FUNCTIONS = {"training.episode_timeout": 600.0}
"""A function that never ends must not hold a run for ever. Executables have a time of their own,
which does not count how long they wait for their turn."""


@dataclass(frozen=True)
class Given:
    """What a command was told of a program, besides a task's name or function.

    Args:
        program: the command of an executable.
        gold: names of fields, several with commas between them.
    """

    program: str | None = None
    reward: str | None = None
    gold: Sequence[str] = ()

    @property
    def is_empty(self) -> bool:
        return self.program is None and self.reward is None and not self.gold


@dataclass(frozen=True)
class Found:
    """A task, and the settings that the command line made of its arguments."""

    task_class: type[Task]
    flags: Mapping[str, Any] = field(default_factory=dict)


def find_task(
    registry: Registry,
    name: str | None,
    given: Given = Given(),
    *,
    config: Path | None,
    environ: Mapping[str, str],
    overrides: Sequence[str] = (),
    stored: Mapping[str, Any] | None = None,
) -> Found:
    """The task that is meant.

    Args:
        name: of a task of a plugin or of the settings file, or a function, ``flow.py:run``.
        stored: ``tasks`` of a run's settings, which knows its own programs.

    Raises:
        UsageError: there is none, or what was said contradicts itself.
    """
    file = config or FILE
    in_file = task_tables([from_file(file)] if config or FILE.is_file() else [])
    said = task_tables([from_environment(environ), from_overrides(overrides)])
    tables = {
        key: {**(stored or {}).get(key, {}), **in_file.get(key, {}), **said.get(key, {})}
        for key in {**(stored or {}), **in_file, **said}
        if isinstance(in_file.get(key, {}), Mapping) and isinstance(said.get(key, {}), Mapping)
    }
    programs = [
        key for key, table in tables.items() if table.get("function") or table.get("program")
    ]
    function = None
    if name is not None and is_function(name):
        if given.program is not None:
            raise UsageError(f"a task is a function ({name}) or a program, not both")
        function = function_place(name)
        name = _named(function, in_file, file) or _stem(function.path.stem)
    elif name is None and given.program is not None:
        name = _same_program(given.program, in_file) or _stem(_of_command(given.program))
    elif name is None:
        raise UsageError(
            "say which task: a name, a function such as flow.py:run, --program, or by --run a run"
            " of it"
        )
    elif name in registry.entries("task"):
        if not given.is_empty:
            raise UsageError(
                f"task '{name}' comes from a plugin: --program, --reward and --gold are for"
                " programs"
            )
        return Found(registry.task(name))
    elif name not in programs and given.program is None:
        raise _unknown(registry, name, programs)
    if (function is not None or given.program is not None) and name in registry.entries("task"):
        name = f"{name}-program"
    table = in_file.get(name, {})
    if function is not None or given.program is not None:
        _check_same(name, table, function, given, file)
    nodes = declared_nodes(name, in_file, said, stored or {})
    directory = file.parent if table.get("program") else Path()
    defaults: dict[str, Any] = {"directory": str(directory.absolute())}
    if function is not None or tables.get(name, {}).get("function"):
        defaults.update(_OF_FUNCTIONS)
    flags = _flags(name, function, given)
    return Found(program_class(registry, name, nodes, defaults), flags)


def programs(file: Path | None, overrides: Sequence[str]) -> list[tuple[str, str]]:
    """The programs of a settings file: their names, and what each runs."""
    layers = [*([] if file is None else [from_file(file)]), from_overrides(overrides)]
    return [
        (name, str(table.get("function") or table["program"]))
        for name, table in task_tables(layers).items()
        if isinstance(table, Mapping) and (table.get("function") or table.get("program"))
    ]


def find_stored(registry: Registry, name: str, tasks: Mapping[str, Any]) -> type[Task]:
    """The task of a run's settings, a plugin's or a program.

    Args:
        tasks: the ``tasks`` of these settings.
    """
    table = tasks.get(name, {})
    if name in registry.entries("task") or not (table.get("function") or table.get("program")):
        return registry.task(name)
    return program_class(registry, name, list(table.get("nodes", {})))


def program_class(
    registry: Registry,
    name: str,
    nodes: Sequence[str],
    defaults: Mapping[str, Any] = {},
) -> type[ProgramTask]:
    """The class of a program's task.

    Args:
        nodes: the names of its nodes.
        defaults: settings, see ``Task.defaults``.
    """
    chat = chat_type(registry)
    attributes = {
        "__doc__": "A program that calls its nodes through OpenAI's API.",
        "name": name,
        "nodes": [chat(name=node) for node in nodes],
        "defaults": defaults,
    }
    return type(f"Program_{name}", (ProgramTask,), attributes)


def chat_type(registry: Registry) -> type[Node]:
    """The type of a program's nodes: chat nodes that may have a target."""
    base = registry.node_type("chat")
    made = make_dataclass(
        base.__name__,
        [("target", str | None, field(default=None))],
        bases=(base,),
        kw_only=True,
        namespace={"__doc__": _chat_doc(base), "__module__": __name__},
    )
    return made  # type: ignore[no-any-return]


def _chat_doc(base: type[Node]) -> str:
    first = (base.__doc__ or "").partition("\n")[0]
    return (
        f"{first}\n\n    Args:\n        target: the right answer of a node that learns"
        " 'supervised': a template over the\n            example's fields, '{category}', or"
        " FILE.py:FUNCTION of (example, request)."
    )


def _flags(name: str, function: FunctionPlace | None, given: Given) -> dict[str, Any]:
    """The settings that arguments are."""
    prefix = f"tasks.{name}"
    gold = [each.strip() for text in given.gold for each in text.split(",") if each.strip()]
    flags: dict[str, Any] = {
        f"{prefix}.function": None if function is None else str(function),
        f"{prefix}.program": given.program,
        f"{prefix}.reward": given.reward,
        f"{prefix}.gold": gold or None,
    }
    if given.program is not None:
        flags[f"{prefix}.directory"] = str(Path().absolute())
    return {key: value for key, value in flags.items() if value is not None}


def _named(place: FunctionPlace, in_file: Mapping[str, Any], file: Path) -> str | None:
    """The name of the task whose function this is, in the settings file."""
    for name, table in in_file.items():
        text = table.get("function") if isinstance(table, Mapping) else None
        if isinstance(text, str) and is_function(text):
            path, _, function = text.rpartition(":")
            if function == place.name and (file.parent / path).absolute() == place.path:
                return name
    return None


def _same_program(command: str, in_file: Mapping[str, Any]) -> str | None:
    for name, table in in_file.items():
        if isinstance(table, Mapping) and table.get("program") == command:
            return name
    return None


def _check_same(
    name: str,
    table: Mapping[str, Any],
    function: FunctionPlace | None,
    given: Given,
    file: Path,
) -> None:
    """Refuse a program whose name is that of another one in the settings file."""
    if function is not None and _named(function, {name: table}, file) == name:
        return
    if given.program is not None and _same_program(given.program, {name: table}) == name:
        return
    other = table.get("function") or table.get("program")
    if other:
        raise UsageError(
            f"{file} has another program of that name: [tasks.{name}] is '{other}', and not"
            f" '{function or given.program}'. Give that table another name, or call it:"
            f" 'flowtune train {name}'"
        )


def _of_command(command: str) -> str:
    """What a command is called: after the file that it runs, or else its first word."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"the program '{command}' cannot be read as words: {error}") from None
    if not words:
        raise UsageError("the program is empty: name an executable, such as 'python flow.py'")
    files = [word for word in words[1:] if not word.startswith("-") and Path(word).suffix]
    return Path(files[0] if files else words[0]).stem


def _stem(text: str) -> str:
    """A name that can be a table's in a settings file, and part of a variable's name."""
    return "-".join(re.findall(r"[A-Za-z0-9]+(?:_[A-Za-z0-9]+)*", text)) or "program"


def _unknown(registry: Registry, name: str, programs: list[str]) -> UsageError:
    if not programs:
        return registry.unknown("task", name)
    known = [*registry.entries("task"), *programs]
    return unknown_name("task", name, known)
