"""The settings of a run with what is set now: which settings differ, and whether they may."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flow.errors import UsageError
from ..flow.preset import NO_PRESET
from ..runs.directory import RunDirectory
from . import options
from .renamed_nodes import Renamed, check_renamed, fitting_origins, fitting_tasks
from .stored_model import check_model, check_node_models, is_same_model, is_same_place
from .stored_settings import settings_file, stored_settings

if TYPE_CHECKING:
    from ..config.layers import Origin
    from ..config.resolve import Resolved
    from ..flow.task import Task
    from ..registry import Registry

# The adapters' weights mean nothing without these.
_ADAPTERS = ("model.name", "model.revision", "adapter.")
# These change no result, or only how long training goes on.
_FREE = (
    "preset",
    "engine.",
    "model.device",  # and devices
    "model.trust_remote_code",
    "run.trackers",
    "training.evaluate.data",  # whose content is checked
    "training.evaluate.patience",
    "training.keep_checkpoints",
    "training.max_failures",
    "training.rank_timeout",
)


@dataclass(frozen=True)
class Difference:
    """A setting that has another value now than in the run."""

    key: str
    path: tuple[str, ...]
    stored: Any
    now: Any
    origin: Origin

    def __str__(self) -> str:
        from ..config.template import toml_value

        stored, now = toml_value(self.stored), toml_value(self.now)
        return f"{self.key} = {stored} in the run, and {now} now ({self.origin})"


class RunOverrides:
    """The settings of a run, and those that override them now.

    Args:
        run: of the task ``task_class``.
        renamed: of a new run that takes what fits of this one: which nodes have other names now.
            Settings of nodes that the task no longer has are left out. None: all have to fit.
        config, overrides, flags: the command's options. Without ``config`` the run's own settings
            file is read again, be it ./flowtune.toml or another.

    Raises:
        UsageError: the run is of another task, or its settings no longer fit.
    """

    def __init__(
        self,
        registry: Registry,
        task_class: type[Task],
        run: RunDirectory,
        *,
        renamed: Renamed | None = None,
        config: Path | None = None,
        overrides: Sequence[str] | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> None:
        from ..config.layers import Origin, Setting
        from ..config.resolve import restore
        from ..programs.settings import MOVABLE
        from ..programs.task import ProgramTask

        self.run = run
        self.stored = stored_settings(run)
        self.task = task_class.name
        movable = MOVABLE if issubclass(task_class, ProgramTask) else ()
        self._free = tuple(f"tasks.{self.task}.{name}" for name in movable)
        if run.info.task != self.task:
            raise UsageError(f"run '{run.path.name}' is of task '{run.info.task}', not {self.task}")
        self._restore = lambda values: restore(task_class, values, run.path.name, registry)
        values, origins = self.stored["settings"], self.stored["origins"]
        preset = values.get("preset") or NO_PRESET
        self.now = options.settings(
            registry,
            task_class,
            config=settings_file(run, config),
            overrides=overrides,
            flags=flags,
            preset=Setting(preset, Origin("run", f"run {run.path.name}")),
        )
        if renamed is not None:
            tasks = values.get("tasks", {})
            then = list(tasks.get(self.task, {}).get("nodes", {}))
            nodes = [] if self.now.task is None else [node.name for node in self.now.task.nodes]
            check_renamed(renamed, then, nodes)
            values = {**values, "tasks": fitting_tasks(tasks, self.task, renamed, nodes)}
            origins = fitting_origins(origins, self.task, renamed, nodes)
        self.old = self._restore(values)
        self.origins = {key: Origin(**origin) for key, origin in origins.items()}
        self.differences = list(self._differences())

    def resumed(self) -> Resolved:
        """The settings to go on with: the run's, with such changes as change no result.

        ``training.limit`` may grow, as long as the run is in its first pass, and
        ``training.passes`` at any time: the order of what was played stays as it is.

        Raises:
            UsageError: another setting differs; lists all that do.
        """
        training = self.old.settings.training
        limit = training.limit
        a_pass = self.stored["data"].get("examples", 0) // training.passes
        first_pass = training.passes == 1 or self.run.info.episodes <= a_pass

        def allowed(difference: Difference) -> bool:
            if difference.key == "training.limit":
                more = difference.now == 0 or difference.now > limit
                return limit > 0 and first_pass and more
            if difference.key == "training.passes":
                return bool(difference.now > training.passes)
            free = (*_FREE, *self._free)
            return difference.key.startswith(free) or self._is_moved_model(difference)

        name = self.run.path.name
        self._refuse(
            allowed,
            f"run '{name}' cannot go on with other settings. Leave them as they were, or begin a"
            f" new run with what this one has learned, by --from {name}. (training.passes may grow,"
            " and so may training.limit in the first pass.) These differ:",
        )
        resolved = self._changed(self.old)
        changed = {difference.key: difference.origin for difference in self.differences}
        return replace(resolved, origins={**self.origins, **changed})

    def trained(self) -> Resolved:
        """The settings to use what the run has learned: the run's, with what is set now.

        Raises:
            UsageError: settings differ that its adapters depend on; lists them.
        """
        self._refuse_other_adapters()
        resolved = self._changed(self.old)
        return replace(resolved, origins=self._origins())

    def continued(self) -> Resolved:
        """The settings of a new run that begins with what this one has learned.

        As ``trained``; but nodes that can learn now do, as they are set; and how much is trained
        and computed at once, and where runs are kept, is as set now.

        Raises:
            UsageError: settings differ that its adapters depend on; lists them.
        """
        self._refuse_other_adapters()
        self.differences += self._trained_again([each.key for each in self.differences])
        now = ("engine", "training", "run")
        resolved = self._changed(self.old, {name: getattr(self.now.settings, name) for name in now})
        origins = {k: v for k, v in self.now.origins.items() if k.split(".")[0] in now}
        return replace(resolved, origins={**self._origins(), **origins})

    def _origins(self) -> dict[str, Origin]:
        """Where the run's settings were set when it began, and where those that changed are now."""
        inherited = {
            key: replace(origin, run=origin.run or self.run.path.name) if origin.rank else origin
            for key, origin in self.origins.items()
        }
        return inherited | {difference.key: difference.origin for difference in self.differences}

    def _refuse_other_adapters(self) -> None:
        self._refuse(
            lambda difference: (
                not difference.key.startswith(_ADAPTERS) or self._is_moved_model(difference)
            ),
            f"what run '{self.run.path.name}' has learned cannot be used with another model or"
            " other adapters:",
        )

    def _is_moved_model(self, difference: Difference) -> bool:
        return difference.key == "model.name" and is_same_model(self.stored, difference.now)

    def _refuse(self, allowed: Callable[[Difference], bool], why: str) -> None:
        refused = [str(difference) for difference in self.differences if not allowed(difference)]
        if refused:
            raise UsageError("\n  ".join([why, *refused]))

    def _changed(self, old: Resolved, sections: Mapping[str, Any] | None = None) -> Resolved:
        """The run's settings with some sections replaced, and then with what is set now."""
        values = old.settings.model_dump(mode="json")
        values |= {name: s.model_dump(mode="json") for name, s in (sections or {}).items()}
        for difference in self.differences:
            *tables, last = difference.path
            parent = values
            for name in tables:
                parent = parent.setdefault(name, {})
            parent[last] = copy.deepcopy(difference.now)
        # A run cannot say that its model's code is to be trusted.
        values["model"]["trust_remote_code"] = self.now.settings.model.trust_remote_code
        check_model(self.run, self.stored, values["model"]["name"])
        check_node_models(self.run, self.stored, values["tasks"].get(self.task, {}))
        return self._restore(values)

    def _differences(self) -> Iterable[Difference]:
        """What is set now, by whatever overrides what the run had its value from."""
        old = self.old.settings.model_dump(mode="json")
        now = self.now.settings.model_dump(mode="json")
        for key, origin in self.now.origins.items():
            path = self._path(key)
            if path is None or not self._overrides(key, origin):
                continue
            stored, value = _value(old, path), _value(now, path)
            if key in ("model.dtype", "adapter.targets") and value == "auto":
                continue  # it leaves the choice, which was made when the run began
            if key == "model.name" and is_same_place(stored, value):
                continue
            if stored != value:
                yield Difference(key, path, stored, value, origin)

    def _trained_again(self, changed: Collection[str]) -> Iterable[Difference]:
        """What nodes learn now that learned nothing in the run because they could not."""
        from ..flow.adapters import why_untrained

        nodes = {} if self.now.task is None else {node.name: node for node in self.now.task.nodes}
        for old in [] if self.old.task is None else self.old.task.nodes:
            node, begin = nodes.get(old.name), f"tasks.{self.task}.nodes.{old.name}"
            learn = f"{begin}.learn"
            if node is None or why_untrained(old) is None or why_untrained(node) is not None:
                continue
            if {f"{begin}.adapter", f"{begin}.model"} & {*changed} and learn not in changed:
                path = tuple(learn.split("."))
                yield Difference(learn, path, old.learn, node.learn, self.now.origins[learn])

    def _overrides(self, key: str, origin: Origin) -> bool:
        """Whether a setting's origin now overrides the one it had in the run.

        What a run's command line set stays without being repeated: the settings file, which it
        overrode, is no change then. A preset's settings count if another preset is chosen.
        """
        before = self.origins.get(key)
        if origin.layer == "preset":
            chosen = self.now.origins["preset"]
            other = self.now.settings.preset != self.old.settings.preset
            return other and self._overrides("preset", chosen) and not (before and before.rank)
        return origin.rank > 0 and (before is None or origin.rank >= before.rank)

    def _path(self, key: str) -> tuple[str, ...] | None:
        """The names of a setting; None for those of other tasks, and of where runs are."""
        path = tuple(key.split("."))
        other = path[0] == "tasks" and path[1] != self.task
        return None if other or key == "run.directory" else path


def find_run(
    registry: Registry, name: str, config: Path | None, overrides: Sequence[str] | None
) -> RunDirectory:
    """The run of that name, where the settings say that runs are, or at that path."""
    from ..flow.paths import expanded

    found = options.settings(registry, config=config, overrides=overrides)
    return RunDirectory.open(expanded(Path(name)), found.settings.run.directory)


def _value(values: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The value at a path; None where there is none."""
    value: Any = values
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
