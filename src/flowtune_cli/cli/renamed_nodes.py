"""Nodes of a run under other names: ``--rename OLD=NEW``, and a run's settings for the task now."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ..flow.errors import UsageError, unknown_name

Renamed = Mapping[str, str]
"""By the name of a node here, its name in the run."""


def parse_renamed(options: Iterable[str]) -> Renamed:
    """What ``--rename`` says.

    Raises:
        UsageError: it is not OLD=NEW, or a name occurs twice.
    """
    renamed: dict[str, str] = {}
    for option in options:
        old, equals, new = (part.strip() for part in option.partition("="))
        if not (old and equals and new):
            raise UsageError(f"--rename wants OLD=NEW, the names of a node: '{option}'")
        if new in renamed or old in renamed.values():
            raise UsageError(f"--rename {option}: one node is renamed twice")
        renamed[new] = old
    return renamed


def check_renamed(renamed: Renamed, then: Sequence[str], now: Sequence[str]) -> None:
    """Check that there are such nodes.

    Args:
        then: the run's nodes.
        now: the task's.

    Raises:
        UsageError: there is none.
    """
    for new, old in renamed.items():
        for name, known, whose in ((old, then, "the run's"), (new, now, "the task's")):
            if name not in known:
                error = unknown_name("node", name, list(known))
                raise UsageError(f"--rename {old}={new}, {whose}: {error}")


def renamed_tasks(tasks: Mapping[str, Any], task: str, renamed: Renamed) -> dict[str, Any]:
    """The ``tasks`` of a run's settings, with a task's nodes under their names here."""
    table = tasks.get(task)
    if not isinstance(table, Mapping) or "nodes" not in table:
        return dict(tasks)
    olds = {old: new for new, old in renamed.items()}
    nodes = {n: v for n, v in table["nodes"].items() if n in olds or n not in renamed}
    named = {olds.get(name, name): values for name, values in nodes.items()}
    return {**tasks, task: {**table, "nodes": named}}


def fitting_tasks(
    tasks: Mapping[str, Any], task: str, renamed: Renamed, nodes: Collection[str]
) -> dict[str, Any]:
    """As ``renamed_tasks``, with the nodes alone that the task has."""
    found = renamed_tasks(tasks, task, renamed)
    if "nodes" in found.get(task, {}):
        kept = {name: values for name, values in found[task]["nodes"].items() if name in nodes}
        found[task] = {**found[task], "nodes": kept}
    return found


def fitting_origins(
    origins: Mapping[str, Any], task: str, renamed: Renamed, nodes: Collection[str]
) -> dict[str, Any]:
    """The origins of a run's settings by their keys here; those of nodes that are gone are not."""
    olds = {old: new for new, old in renamed.items()}
    begin = f"tasks.{task}.nodes."
    found = {}
    for key, origin in origins.items():
        name, dot, rest = key.removeprefix(begin).partition(".")
        if not key.startswith(begin):
            found[key] = origin
        elif olds.get(name, name) in nodes and (name in olds or name not in renamed):
            found[f"{begin}{olds.get(name, name)}{dot}{rest}"] = origin
    return found
