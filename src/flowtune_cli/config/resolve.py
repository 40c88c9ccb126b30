"""What the settings are, and where each was set.

Each layer overrides those before it:

1. the defaults in ``settings.py``
2. what the task prefers: ``Task.defaults``, and its nodes as it declares them
3. the preset, one of ``Task.presets``
4. ``flowtune.toml``: the file given by ``--config``, or the one in the current directory
5. variables: ``FLOWTUNE_TRAINING__SEED=7``, ``FLOWTUNE_TASKS__HOPQA__NODES__QUERY__WEIGHT=2``
6. the command line: ``--set training.seed=7``, then options for single settings, as ``--limit``
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from ..flow.errors import UsageError, unknown_name
from ..flow.node import Node
from ..flow.preset import NO_PRESET
from ..flow.task import Task
from ..registry import Registry
from . import layers
from .layers import Key, Layer, Origin, Setting
from .names import check_node, check_sections
from .schema import (
    Checker,
    build,
    field_types,
    fields_of,
    message,
    record,
    schema,
    set_values,
    task_table,
    validated,
)
from .settings import LearningSettings, Section, Settings

FILE = Path("flowtune.toml")
SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}


@dataclass(frozen=True)
class Resolved:
    """The settings of one command.

    Args:
        settings: all of them. ``settings.tasks`` holds the task that is run with every value that
            it and its nodes have, and other tasks as far as they were set.
        origins: where each setting's value comes from, by its full key.
    """

    settings: Settings
    origins: Mapping[str, Origin]
    task_class: type[Task] | None = None
    task_settings: Any = None
    nodes: Sequence[Node] = ()

    def make_task(self) -> Task:
        """A new instance of the task, with nodes of its own."""
        if self.task_class is None:
            raise ValueError("these settings were resolved without a task")
        return self.task_class(self.task_settings, copy.deepcopy(list(self.nodes)))

    @property
    def stored(self) -> dict[str, Any]:
        """What a run's settings.json says of them."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "origins": {key: origin.to_json() for key, origin in self.origins.items()},
        }


def resolve(
    task_class: type[Task] | None,
    *,
    file: Path | None = None,
    environ: Mapping[str, str],
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    registry: Registry,
    preset: Setting | None = None,
) -> Resolved:
    """Find out all settings.

    Args:
        task_class: the task that is run; None for a command that runs none.
        file: the settings file; None is ./flowtune.toml if it exists.
        environ: the environment, ``os.environ``.
        overrides: ``section.key=value``, the value in TOML or a string.
        flags: full keys to the values of the options that set them; None was not given.
            ``training.limit`` belongs to ``--limit``, ``model.name`` to ``--model``.
        registry: finds tasks, explorations, evaluators, optimizers and trackers by name.
        preset: the preset unless another is chosen, in place of the model's default one.

    Raises:
        UsageError: with a line for each setting that is unknown or has a wrong value.
    """
    given = [
        layers.from_file(file or FILE) if file or FILE.is_file() else {},
        layers.from_environment(environ),
        layers.from_overrides(overrides),
        layers.from_flags(flags or {}),
    ]
    if task_class is not None:
        name = task_class.name
        defaults = layers.from_task(name, task_class.defaults, Origin("task", f"task {name}"))
        given = [defaults, *_preset(task_class, [defaults, *given], preset), *given]
    return _resolve(task_class, given, registry)


def restore(
    task_class: type[Task], stored: Mapping[str, Any], run: str, registry: Registry
) -> Resolved:
    """The settings that a run stored, ``settings.model_dump(mode="json")``, and they alone.

    Raises:
        UsageError: they no longer fit flowtune or the task, as it is installed.
    """
    tasks = {task_class.name: stored.get("tasks", {}).get(task_class.name, {})}
    layer = layers.from_stored({**stored, "tasks": tasks}, Origin("run", f"run {run}"))
    return _resolve(task_class, [layer], registry)


def _preset(
    task_class: type[Task], given: Sequence[Layer], default: Setting | None
) -> Sequence[Layer]:
    """The layer of the preset that is chosen, or that is the default with the model."""
    checker = Checker(lambda name: None)
    checker.merge(schema({}), given)
    presets = {preset.name: preset for preset in task_class.presets}
    chosen = checker.settings.get(("preset",))
    if chosen is None or chosen.value is None:
        setting = checker.settings.get(("model", "name"))
        model = Settings().model.name if setting is None else setting.text or setting.value
        name = next((name for name, preset in presets.items() if model in preset.models), None)
        chosen = default or Setting(name, Origin("default", f"default with {model}"))
        if chosen.value not in presets:
            return []
    if chosen.value == NO_PRESET:
        return []
    if chosen.value not in presets:
        known = [*presets, NO_PRESET]
        error = unknown_name(f"preset of task '{task_class.name}'", str(chosen.value), known)
        raise UsageError(f"{chosen.origin}: {error}")
    origin = Origin("preset", f"preset {chosen.value}")
    settings = layers.from_task(task_class.name, presets[chosen.value].settings, origin)
    return [{("preset",): chosen}, settings]


def _resolve(task_class: type[Task] | None, given: Sequence[Layer], registry: Registry) -> Resolved:
    installed = {name: entry.thing for name, entry in registry.entries("task").items()}
    if task_class is not None:
        installed[task_class.name] = task_class
    tables: dict[str, Any] = dict.fromkeys(installed, Any)

    def unknown_task(name: str) -> UsageError | None:
        # A task of a plugin that failed, or is left out, cannot be told from a misspelt one,
        # unless it looks like one that is installed. Until then its settings are kept.
        missing = registry.left_out or registry.failed("task")
        if missing and not difflib.get_close_matches(name, installed):
            return None
        return registry.unknown("task", name)

    checker = Checker(unknown_task)
    checker.merge(schema(tables), given)
    mentioned = {key[1] for key in checker.settings if key[0] == "tasks"} & installed.keys()
    task, others = None, sorted(mentioned)
    if task_class is not None:
        task = _task(task_class, tables, given, checker)
        others = [name for name in others if name != task_class.name]
    for name in others:
        with suppress(Exception):  # Whoever runs that task will see what is wrong with it.
            if other := _task(installed[name], tables, given, checker):
                other.check_names(None, registry, checker)
    settings: Settings | None = checker.validate(Settings)
    if task is not None:
        task.check_names(settings and settings.learning, registry, checker)
    if settings is not None:
        check_sections(settings.learning, settings.run, registry, checker)
    checker.finish(task_class and task_class.name)
    assert settings is not None
    if task is None:
        return Resolved(settings, _origins(settings, None, checker))
    name = task.key[1]
    settings = settings.model_copy(update={"tasks": {**settings.tasks, name: task.values}})
    origins = _origins(settings, task, checker)
    return Resolved(settings, origins, task_class, task.settings, task.nodes)


@dataclass(frozen=True)
class _Task:
    """A task's settings, and its nodes with theirs."""

    key: Key
    settings: Any
    nodes: Sequence[Node]

    @property
    def values(self) -> dict[str, Any]:
        """All settings as JSON values; those that no settings file can hold are left out."""
        values = {} if self.settings is None else self.settings.model_dump(mode="json")
        nodes: dict[str, dict[str, Any]] = {node.name: {} for node in self.nodes}
        for node in self.nodes:
            for field in field_types(type(node)).keys() - {"name"}:
                with suppress(PydanticSerializationError):
                    nodes[node.name][field] = to_jsonable_python(getattr(node, field))
        return {**values, "nodes": nodes}

    def check_names(
        self, learning: LearningSettings | None, registry: Registry, checker: Checker
    ) -> None:
        for node in self.nodes:
            check_node(node, (*self.key, "nodes", node.name), learning, registry, checker)


def _task(
    task_class: type[Task], tables: dict[str, Any], given: Sequence[Layer], checker: Checker
) -> _Task | None:
    """A task with its settings; None after a complaint. Completes the task's table."""
    name, key = task_class.name, ("tasks", task_class.name)
    # Which nodes there are may depend on the task's own settings, so these come first.
    tables[name] = task_table(task_class)
    checker.merge(schema(tables), given)
    own = checker.validate(tables[name], key)
    if own is None:
        return None
    settings = None
    if task_class.Settings is not None:
        values = {field: value for field, value in set_values(own).items() if field != "nodes"}
        problems, settings = validated(task_class.Settings, values, as_json=False)
        for place, details in problems.items():
            checker.complain((*key, *place), message(details))
        if settings is None:
            return None
    nodes = {node.name: node for node in task_class.default_nodes(settings)}
    tables[name] = task_table(task_class, nodes.values())
    checker.merge(schema(tables), given)
    table = checker.validate(tables[name], key)
    if table is None:
        return None
    for node, values in set_values(set_values(table).get("nodes")).items():
        nodes[node] = checker.attempt(
            (*key, "nodes", node),
            lambda node=nodes[node], values=values: build(type(node), node, values),
            "cannot be set so",
        )
    return None if None in nodes.values() else _Task(key, settings, list(nodes.values()))


def _origins(settings: Settings, task: _Task | None, checker: Checker) -> dict[str, Origin]:
    """Where each setting was set, down to the fields of each node's prompt."""
    keys: list[Key] = [("preset",)]
    keys += [(name, key) for name in SECTIONS for key in getattr(settings, name).model_dump()]
    run = () if task is None else task.key
    keys += [key for key in checker.settings if key[0] == "tasks" and key[:2] != run]
    if task is not None:
        keys += [(*run, key) for key in task.values if key != "nodes"]
        for node in task.nodes:
            fields = fields_of(record(type(node))) or {}
            for field, value in task.values["nodes"][node.name].items():
                key = (*run, "nodes", node.name, field)
                is_table = fields_of(fields[field]) is not None and isinstance(value, dict)
                keys += [(*key, part) for part in value] if is_table else [key]
    return {".".join(key): checker.origin(key) for key in keys}
