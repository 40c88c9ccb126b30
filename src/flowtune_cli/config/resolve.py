"""What the settings are and where each came from: defaults, task, file, environment, command line.

Each layer overrides those before it:

1. the defaults in ``settings.py``
2. what the task prefers (``Task.defaults``, and its nodes as it declares them)
3. ``flowtune.toml``: the file given by ``--config``, or the one in the current directory
4. variables: ``FLOWTUNE_TRAINING__SEED=7``, ``FLOWTUNE_TASKS__HOPQA__NODES__QUERY__WEIGHT=2``
5. ``--set training.seed=7``
6. options that set one setting each, such as ``--limit``
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..flow.errors import UsageError, unknown_name
from ..flow.task import Task
from ..registry import Registry
from . import sources as sources
from .checks import Checker, matching, may_be_none
from .settings import Section, Settings
from .sources import Assignment
from .tasks import ResolvedTask, resolve_task

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
        settings: all of them. ``settings.tasks`` holds the task that is run with every value it
            and its nodes have, and other tasks as they were given.
        origins: for each ``section.key`` where its value came from: "default", "task hopqa",
            "flowtune.toml:12", "environment FLOWTUNE_TRAINING__SEED", "--set", "--limit".
    """

    settings: Settings
    origins: Mapping[str, str]
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
            "origins": dict(self.origins),
        }


def resolve(
    task_class: type[Task] | None,
    *,
    file: Path | None = None,
    environ: Mapping[str, str],
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    registry: Registry,
) -> Resolved:
    """Find out all settings.

    Args:
        task_class: the task that is run; None for a command that runs none.
        file: the settings file; None is ./flowtune.toml if it is there.
        environ: the environment, ``os.environ``.
        overrides: ``section.key=value``, the value in TOML or a text.
        flags: ``section.key`` to the value of the option that sets it; None was not given.
            ``training.limit`` belongs to ``--limit``, ``model.name`` to ``--model``.
        registry: what explorations, evaluators, optimizers and tasks are named after.

    Raises:
        UsageError: with a line for each setting that is unknown or has a wrong value.
    """
    layers = [
        sources.from_defaults(task_class.name, task_class.defaults) if task_class else [],
        sources.from_file(file or FILE) if file or FILE.is_file() else [],
        sources.from_environment(environ),
        sources.from_overrides(overrides),
        sources.from_flags(flags or {}),
    ]
    return _resolve(task_class, [a for layer in layers for a in layer], registry)


def restore(
    task_class: type[Task], stored: Mapping[str, Any], origin: str, registry: Registry
) -> Resolved:
    """The settings that a run stored, ``settings.model_dump(mode="json")``, and they alone.

    Raises:
        UsageError: they no longer fit flowtune or the task, as it is installed.
    """
    tasks = {task_class.name: stored.get("tasks", {}).get(task_class.name, {})}
    return _resolve(task_class, sources.from_stored({**stored, "tasks": tasks}, origin), registry)


def _resolve(
    task_class: type[Task] | None, assignments: Sequence[Assignment], registry: Registry
) -> Resolved:
    checker = Checker()
    of_sections: dict[str, list[Assignment]] = {name: [] for name in SECTIONS}
    of_tasks: list[Assignment] = []
    for assignment in assignments:
        section = assignment.path[0]
        if section == "tasks":
            of_tasks.append(assignment)
        elif section in SECTIONS:
            of_sections[section].append(assignment)
        else:
            error = unknown_name("section", section, [*SECTIONS, "tasks"])
            checker.problems.append((assignment.origin, str(error)))
    values: dict[str, Any] = {
        name: _section(name, given, checker) for name, given in of_sections.items()
    }
    values["tasks"], task = _tasks(task_class, of_tasks, registry, checker)
    # Only if it was chosen: the optimizers need torch, which takes seconds to import.
    if checker.origin(("learning", "optimizer")) or checker.origin(
        ("learning", "optimizer_options")
    ):
        _check_optimizer(values["learning"], registry, checker)
    _check_trackers(values["run"], registry, checker)
    checker.finish()
    settings = Settings(**values)
    return Resolved(settings, _origins(settings, task, checker), task)


def _section(name: str, assignments: Iterable[Assignment], checker: Checker) -> Section | None:
    """A section with its assignments; None after a complaint."""
    section = SECTIONS[name]
    fields = section.model_fields
    known = []
    for assignment in assignments:
        if len(assignment.path) == 1 and assignment.value == {}:
            continue
        if len(assignment.path) == 1:
            text = f"'{name}' is a section: write [{name}] and its settings below"
            checker.problems.append((assignment.origin, text))
        elif assignment.path[1] in fields:
            known.append(assignment)
        else:
            key = assignment.path[1]
            elsewhere = [f"{s}.{key}" for s in SECTIONS if key in SECTIONS[s].model_fields]
            here = [f"{name}.{field}" for field in fields]
            checker.unknown(assignment.path[:2], elsewhere or here, assignment.origin)
    values = checker.merge(known, (name,), section().model_dump())
    for key, value in values.items():
        if value == "" and may_be_none(fields[key].annotation):
            values[key] = None
    checked: Section | None = checker.validate(section, values, (name,))
    return checked


def _tasks(
    task_class: type[Task] | None,
    assignments: Sequence[Assignment],
    registry: Registry,
    checker: Checker,
) -> tuple[dict[str, dict[str, Any]], ResolvedTask | None]:
    """``settings.tasks``, and the task that is run."""
    known = {name: entry.thing for name, entry in registry.entries("task").items() if assignments}
    if task_class is not None:
        known[task_class.name] = task_class
    by_task: dict[str, list[Assignment]] = {}
    first: dict[str, str] = {}
    for assignment in assignments:
        path, empty = assignment.path, assignment.value == {}
        if len(path) < 3 and not empty:
            text = f"'{assignment.key}' sets nothing: write [tasks.NAME] and its settings below"
            checker.problems.append((assignment.origin, text))
        elif len(path) > 1:
            name = matching(path[1], known, assignment.loose)
            moved = dataclasses.replace(assignment, path=("tasks", name, *path[2:]))
            by_task.setdefault(name, []).extend([moved] if len(path) > 2 else [])
            first.setdefault(name, assignment.origin)
    values: dict[str, dict[str, Any]] = {}
    for name, given in by_task.items():
        if task_class is not None and name == task_class.name:
            continue
        values[name] = checker.merge(given, ("tasks", name), {})
        if name in known:
            _check_other(known[name], given, registry, checker)
        # A task of a plugin that failed, or is left out, cannot be told from a misspelt one,
        # unless it looks like one that is there. Its settings then wait until it is.
        elif difflib.get_close_matches(name, known) or not (
            registry.left_out or registry.failed("task")
        ):
            checker.problems.append((first[name], str(registry.unknown("task", name))))
    if task_class is None:
        return values, None
    task = resolve_task(task_class, by_task.get(task_class.name, []), registry, checker)
    if task is not None:
        values[task_class.name] = task.values
    return values, task


def _check_other(
    task_class: type[Task], given: Sequence[Assignment], registry: Registry, checker: Checker
) -> None:
    """Check what is set for a task that is not run, as far as that is not the task's own fault."""
    other = Checker()
    try:
        resolve_task(task_class, given, registry, other)
    except Exception:  # whoever runs that task will see it
        return
    checker.problems += [p for p in other.problems if p[0] != f"task {task_class.name}"]


def _check_trackers(run: Any, registry: Registry, checker: Checker) -> None:
    """Check the names of trackers: a run would go on without one that is not there."""
    for name in run.trackers if run is not None else ():
        try:
            registry.tracker(name)
        except UsageError as error:
            checker.complain(("run", "trackers"), f"cannot be used: {error}")


def _check_optimizer(learning: Any, registry: Registry, checker: Checker) -> None:
    """Check the optimizer's name and the names of its options."""
    if learning is None:
        return
    try:
        factory = registry.optimizer(learning.optimizer)
    except UsageError as error:
        checker.complain(("learning", "optimizer"), f"cannot be used: {error}")
        return
    parameters = list(inspect.signature(factory).parameters.values())[1:]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    tables: dict[tuple[str, ...], Any] = {
        ("learning", "optimizer_options"): learning.optimizer_options
    }
    for section in ("node_options", "calibration_options"):
        for node, options in getattr(learning, section).items():
            tables["learning", section, node] = options
    for path, options in tables.items():
        known = [".".join((*path, p.name)) for p in parameters]
        for option in options:
            if ".".join((*path, option)) not in known:
                checker.unknown((*path, option), known)


def _origins(settings: Settings, task: ResolvedTask | None, checker: Checker) -> dict[str, str]:
    """Where each setting came from, down to the fields of each node's prompt."""
    origins = {
        f"{section}.{key}": checker.origin((section, key)) or "default"
        for section in SECTIONS
        for key in getattr(settings, section).model_dump()
    }
    run = ("tasks", task.task_class.name) if task else ()
    for path, assignment in checker.given.items():
        if path[0] == "tasks" and path[:2] != run:
            origins[".".join(path[: 6 if path[2] == "nodes" else 3])] = assignment.origin
    if task is None:
        return origins
    paths: list[tuple[str, ...]] = [(*run, key) for key in task.values if key != "nodes"]
    for node, fields in task.values["nodes"].items():
        for field, value in fields.items():
            path = (*run, "nodes", node, field)
            paths += (
                [(*path, key) for key in value] if isinstance(value, dict) and value else [path]
            )
    for path in paths:
        origins[".".join(path)] = checker.origin(path) or f"task {task.task_class.name}"
    return origins
