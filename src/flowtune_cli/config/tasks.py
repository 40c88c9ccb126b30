"""The settings of a task and its nodes: ``[tasks.NAME]`` and ``[tasks.NAME.nodes.NODE]``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from ..flow.errors import FlowtuneError, UsageError
from ..flow.named import name_and_options
from ..flow.node import Node
from ..flow.prompt import Template
from ..flow.task import Task
from ..registry import Registry
from .checks import Checker, Path, field_types, matching, may_be_none
from .sources import Assignment


@dataclass(frozen=True)
class ResolvedTask:
    """A task's settings and its nodes with theirs; ``values`` shows both as JSON values."""

    task_class: type[Task]
    settings: Any
    nodes: tuple[Node, ...]
    values: dict[str, Any]


def resolve_task(
    task_class: type[Task],
    assignments: Sequence[Assignment],
    registry: Registry,
    checker: Checker,
) -> ResolvedTask | None:
    """Apply the assignments below ``tasks.NAME``; None after a complaint."""
    where = ("tasks", task_class.name)
    before = len(checker.problems)
    of_nodes = [a for a in assignments if a.path[2] == "nodes"]
    settings = _settings(task_class, [a for a in assignments if a not in of_nodes], checker)
    if len(checker.problems) > before:
        return None
    nodes = task_class.default_nodes(settings)
    by_node: dict[str, list[Assignment]] = {node.name: [] for node in nodes}
    if len(by_node) < len(nodes):
        raise UsageError(f"task '{task_class.name}' has two nodes with one name")
    for assignment in of_nodes:
        path, empty = assignment.path, assignment.value == {}
        if len(path) < 5 and not empty:
            text = f"write [{'.'.join(where)}.nodes.NODE] and the node's settings below"
            checker.problems.append((assignment.origin, f"'{assignment.key}' sets nothing: {text}"))
        elif len(path) > 3:
            name = matching(path[3], by_node, assignment.loose)
            moved = dataclasses.replace(assignment, path=(*where, "nodes", name, *path[4:]))
            if name not in by_node:
                known = [".".join((*where, "nodes", node)) for node in by_node]
                checker.unknown(moved.path[:4], known, moved.origin)
            elif len(path) > 4:
                by_node[name].append(moved)
    resolved = tuple(
        _node(node, by_node[node.name], (*where, "nodes", node.name), registry, checker)
        for node in nodes
    )
    if len(checker.problems) > before:
        return None
    values = {} if settings is None else settings.model_dump(mode="json")
    values["nodes"] = {node.name: _shown(node) for node in resolved}
    return ResolvedTask(task_class, settings, resolved, values)


def _settings(task_class: type[Task], assignments: Sequence[Assignment], checker: Checker) -> Any:
    """The task's own settings, an instance of its model; None if it has none."""
    where = ("tasks", task_class.name)
    model = task_class.Settings
    fields = {} if model is None else model.model_fields
    free = model is not None and model.model_config.get("extra") == "allow"
    known: list[Assignment] = []
    for assignment in assignments:
        name = matching(assignment.path[2], fields, assignment.loose)
        moved = dataclasses.replace(assignment, path=(*where, name, *assignment.path[3:]))
        if name in fields or free:
            known.append(moved)
        else:
            names = [".".join((*where, field)) for field in (*fields, "nodes")]
            checker.unknown(moved.path[:3], names, moved.origin)
    if model is None:
        return None
    values = checker.merge(known, where, {})
    for name, value in values.items():
        if value == "" and name in fields and may_be_none(fields[name].annotation):
            values[name] = None
    return checker.validate(model, values, where, f"task {task_class.name}")


def _node(
    node: Node, assignments: Sequence[Assignment], where: Path, registry: Registry, checker: Checker
) -> Node:
    """The node with its settings; the node as it was after a complaint."""
    fields = field_types(type(node))
    named = []
    for given in assignments:
        field, *inner = given.path[len(where) :]
        path = (*where, matching(field, fields, given.loose), *inner)
        named.append(dataclasses.replace(given, path=path))
    tables = {f: dict(v) for f in fields if isinstance(v := getattr(node, f), Mapping)}
    base = {"exploration": node.exploration, **tables}
    merged = checker.merge(named, where, base)
    values = {f: value for f, value in merged.items() if f not in base or value != base[f]}
    changed = checker.replace(node, values, where, hidden=("name",))
    _check_names(changed, where, registry, checker)
    return changed


def _check_names(node: Node, where: Path, registry: Registry, checker: Checker) -> None:
    """Check what a node names: its exploration with its options, its evaluator, its templates."""
    owner = f"task {where[1]}"
    path = (*where, "exploration")
    try:
        name, options = name_and_options(node.exploration)
        exploration = registry.exploration(name)
    except (UsageError, ValueError) as error:
        checker.complain(path, f"cannot be used: {error}", owner)
    else:
        before = len(checker.problems)
        if dataclasses.is_dataclass(exploration):
            types = field_types(exploration)
            for option, value in options.items():
                if option in types:
                    checker.validate(types[option], value, (*path, option), owner)
                else:
                    known = [".".join((*path, n)) for n in types]
                    origin = checker.origin((*path, option)) or owner
                    checker.unknown((*path, option), known, origin)
        if len(checker.problems) == before:
            try:
                exploration(**options)
            except (FlowtuneError, ValueError, TypeError) as error:
                checker.complain(path, f"does not fit '{name}': {error}", owner)
    if node.evaluator is not None:
        try:
            registry.evaluator(node.evaluator)
        except UsageError as error:
            checker.complain((*where, "evaluator"), f"cannot be used: {error}", owner)
    for field in dataclasses.fields(node):
        template = getattr(node, field.name)
        if isinstance(template, Template):
            try:
                _ = template.fields
            except ValueError as error:
                checker.complain((*where, field.name), f"is not a template: {error}", owner)


def _shown(node: Node) -> dict[str, Any]:
    """A node's settings as JSON values; fields that no settings file can hold are left out."""
    values = {}
    for name in field_types(type(node)):
        try:
            values[name] = to_jsonable_python(getattr(node, name))
        except PydanticSerializationError:
            continue
    del values["name"]
    return values
