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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from ..flow.adapters import settle, why_untrained
from ..flow.errors import UsageError, unknown_name
from ..flow.node import Node
from ..flow.preset import NO_PRESET
from ..flow.task import Task
from ..registry import Registry
from .checker import Checker
from .layers import (
    Entry,
    Key,
    Layer,
    Origin,
    Setting,
    from_environment,
    from_file,
    from_flags,
    from_overrides,
    from_stored,
    from_task,
)
from .names import check_nodes, check_sections
from .paths import located_model
from .schema import build, field_types, fields_of, is_open, setting_keys
from .settings import Settings

FILE = Path("flowtune.toml")


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
    task: ResolvedTask | None = None

    def make_task(self) -> Task:
        """A new instance of the task, with nodes of its own."""
        if self.task is None:
            raise ValueError("these settings were resolved without a task")
        return self.task.task_class(self.task.settings, copy.deepcopy(self.task.nodes))

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
    layers = [
        from_file(file or FILE) if file or FILE.is_file() else {},
        from_environment(environ),
        from_overrides(overrides),
        from_flags(flags or {}),
    ]
    if task_class is not None:
        name = task_class.name
        defaults = from_task(name, task_class.defaults, Origin("task", f"task {name}"))
        layers = [defaults, *_preset(task_class, [defaults, *layers], preset, registry), *layers]
    return _resolve(task_class, layers, registry)


def restore(
    task_class: type[Task], stored: Mapping[str, Any], run: str, registry: Registry
) -> Resolved:
    """The settings that a run stored, ``settings.model_dump(mode="json")``, and they alone.

    Raises:
        UsageError: they no longer fit flowtune or the task, as it is installed.
    """
    tasks = {task_class.name: stored.get("tasks", {}).get(task_class.name, {})}
    layer = from_stored({**stored, "tasks": tasks}, Origin("run", f"run {run}"))
    return _resolve(task_class, [layer], registry)


def _preset(
    task_class: type[Task],
    layers: Sequence[Layer],
    default: Setting | None,
    registry: Registry,
) -> Sequence[Layer]:
    """The layer of the preset that is chosen, or that is the default with the model."""
    checker = Checker(registry)
    checker.merge(Settings, (), [entry for layer in layers for entry in layer.items()])
    presets = {preset.name: preset for preset in task_class.presets}
    chosen = checker.settings.get(("preset",))
    if chosen is None or chosen.value is None:
        setting = checker.settings.get(("model", "name"))
        model = Settings().model.name if setting is None else setting.value
        name = next((name for name, preset in presets.items() if model in preset.models), None)
        chosen = default or Setting(name, Origin("default", f"default with {model}"))
        if chosen.value not in presets:
            return []
    name = str(chosen.value)
    if name == NO_PRESET:
        return []
    if name not in presets:
        kind = f"preset of task '{task_class.name}'"
        error = unknown_name(kind, name, [*presets, NO_PRESET])
        raise UsageError(f"{chosen.origin}: {error}")
    origin = Origin("preset", f"preset {name}")
    return [{("preset",): chosen}, from_task(task_class.name, presets[name].settings, origin)]


def _resolve(
    task_class: type[Task] | None, layers: Sequence[Layer], registry: Registry
) -> Resolved:
    task_name = None if task_class is None else task_class.name
    installed = {name: entry.thing for name, entry in registry.entries("task").items()}
    if task_class is not None:
        installed[task_class.name] = task_class
    checker = Checker(registry)
    entries = checker.split(Settings, (), [entry for layer in layers for entry in layer.items()])
    of_tasks = entries.pop("tasks", [])
    known = {**dict.fromkeys(_programs(of_tasks), Any), **installed}
    task_entries = checker.split(known, ("tasks",), of_tasks)
    settings = _sections(entries, checker)
    if settings is None:
        checker.finish(task_name)
        raise ValueError("a section that cannot be made is a problem that was not reported")
    check_sections(settings, checker)
    task, kinds, values = None, {}, {}
    if task_class is not None:
        task = _task(task_class, task_entries.pop(task_class.name, ()), checker)
    if task is not None:
        check_nodes(task.nodes, task.key, settings.learning, checker)
        kinds[task.name] = task.kind
    for name, own in task_entries.items():
        values[name] = checker.merge(Any, ("tasks", name), own)
        with suppress(Exception):  # Whoever runs that task will see what is wrong with it.
            if name in installed and (other := _task(installed[name], own, checker)):
                kinds[name], values[name] = other.kind, to_jsonable_python(other.changes)
                check_nodes(other.nodes, other.key, None, checker)
    checker.finish(task_name)
    if task is not None:
        values[task.name] = task.values
    settings = settings.model_copy(update={"tasks": values})
    kind = {**(fields_of(Settings) or {}), "tasks": kinds}
    keys = setting_keys(kind, settings.model_dump(mode="json"))
    return Resolved(settings, {".".join(key): checker.origin(key) for key in keys}, task)


def _programs(entries: Sequence[Entry]) -> set[str]:
    """The tasks that are programs, which no plugin brings: their tables say what they run."""
    flat = [
        (*names, *more)
        for names, setting in entries
        for more in setting_keys(Any, setting.value, ())
    ]
    return {key[0] for key in flat if key[1:2] in (("function",), ("program",))}


def _sections(entries: Mapping[str, Sequence[Entry]], checker: Checker) -> Settings | None:
    """All settings but those of tasks; None after a complaint."""
    settings: Settings | None = checker.make(Settings, (), checker.merge_all(Settings, (), entries))
    key = ("model", "name")
    if settings is None or key not in checker.settings:
        return settings
    name, origin = settings.model.name, checker.origin(key)
    located = checker.attempt(key, partial(located_model, name, origin))
    if located in (None, name) or name in checker.registry.entries("model"):
        return settings
    model = settings.model.model_copy(update={"name": located})
    return settings.model_copy(update={"model": model})


@dataclass(frozen=True)
class ResolvedTask:
    """A task with its settings, and its nodes with theirs.

    Args:
        kind: of the table of all its settings.
        changes: those that were set.
    """

    task_class: type[Task]
    settings: Any
    nodes: Sequence[Node]
    kind: Mapping[str, Any]
    changes: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.task_class.name

    @property
    def key(self) -> Key:
        """The key of the nodes' table."""
        return ("tasks", self.name, "nodes")

    @property
    def values(self) -> dict[str, Any]:
        """All settings as JSON values; those that no settings file can hold are left out."""
        values = {} if self.settings is None else self.settings.model_dump(mode="json")
        return {**values, "nodes": {node.name: _json_values(node) for node in self.nodes}}


def _json_values(node: Node) -> dict[str, Any]:
    values = {}
    for field in field_types(type(node)):
        with suppress(PydanticSerializationError):
            values[field] = to_jsonable_python(getattr(node, field))
    del values["name"]
    return values


def _task(
    task_class: type[Task], entries: Sequence[Entry], checker: Checker
) -> ResolvedTask | None:
    """A task with the settings that the layers have for it; None after a complaint."""
    model, key = task_class.Settings, ("tasks", task_class.name)
    own = fields_of(model or {}) or {}
    known = Any if is_open(model) else {**own, "nodes": Any}
    groups = checker.split(known, key, entries)
    node_entries = groups.pop("nodes", ())
    # Which nodes there are may depend on the task's own settings, so these come first.
    problems = len(checker.problems)
    changes = checker.merge_all(model or {}, key, groups)
    settings = None
    if model is not None and len(checker.problems) == problems:
        settings = checker.make(model, key, changes)
    if len(checker.problems) > problems:
        return None
    nodes = list(task_class.default_nodes(settings))
    kinds = {node.name: {**field_types(type(node))} for node in nodes}
    for kind in kinds.values():
        del kind["name"]
    changes["nodes"] = checker.merge(kinds, (*key, "nodes"), node_entries)
    for number, node in enumerate(nodes):
        if node.name in changes["nodes"]:
            make = partial(build, type(node), node, changes["nodes"][node.name])
            nodes[number] = checker.attempt((*key, "nodes", node.name), make, "cannot be set so")
    if None in nodes:
        return None
    _locate_models(nodes, (*key, "nodes"), checker)
    _settle(nodes, (*key, "nodes"), checker)
    return ResolvedTask(task_class, settings, nodes, {**own, "nodes": kinds}, changes)


def _locate_models(nodes: Sequence[Node], key: Key, checker: Checker) -> None:
    """Make the paths of nodes' own models absolute, as that of the base model is."""
    for node in nodes:
        name, own = node.other_model, (*key, node.name, "model")
        if name and name not in checker.registry.entries("model"):
            located = checker.attempt(own, partial(located_model, name, checker.origin(own)))
            node.model = located or name


def _settle(nodes: Sequence[Node], key: Key, checker: Checker) -> None:
    """Let nodes that cannot be trained learn nothing, unless a user has said what they learn."""
    for node in nodes:
        why, learn = why_untrained(node), (*key, node.name, "learn")
        chosen = checker.settings.get(learn)
        if why is not None and node.learn != "nothing" and chosen and chosen.origin.rank:
            checker.complain(learn, f"is '{node.learn}', and {why}: leave one of them out")
    settle(nodes)
