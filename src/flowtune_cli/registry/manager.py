"""The registry: finds and imports installed plugins, and looks up what they register by name.

A plugin that fails is recorded as a problem, with its distribution and error, and affects nothing
else. A hook is called when something of its kind is first requested.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

import pluggy

from ..flow.deviation import Evaluator
from ..flow.errors import UsageError, unknown_name
from ..flow.model_source import ModelSource
from ..flow.named import name_and_options
from ..flow.node import Exploration, Node
from ..flow.postprocessing import PostProcessor
from ..flow.task import Task
from .checks import CHECKS, Kind, Refused
from .hookspecs import GROUP, Hooks

HOOKS: dict[Kind, str] = {
    "task": "register_tasks",
    "node type": "register_node_types",
    "exploration": "register_explorations",
    "reward": "register_rewards",
    "evaluator": "register_rewards",
    "optimizer": "register_optimizers",
    "post-processor": "register_postprocessors",
    "model": "register_models",
    "tracker": "register_trackers",
    "command": "register_commands",
}


@dataclass(frozen=True)
class Plugin:
    """An entry point of the group ``flowtune``; ``value`` is the module or class that it names."""

    name: str
    distribution: str
    version: str
    value: str

    def __str__(self) -> str:
        return f"'{self.name}' ({self.distribution} {self.version})"


@dataclass(frozen=True)
class Entry:
    """Something that a plugin registered."""

    name: str
    kind: Kind
    thing: Any
    plugin: str
    distribution: str


@dataclass(frozen=True)
class Problem:
    """A fault of a plugin.

    Args:
        hook: the hook that failed, or whose object was refused; "" when the import failed.
        error: a line or two for users.
        traceback: of an exception in the plugin's own code.
    """

    plugin: Plugin
    hook: str
    error: str
    traceback: str = ""


class Registry:
    """Everything that the loaded plugins register, by kind and name. See ``load_registry``.

    Args:
        points: entry points of the plugins to load.
        left_out: installed plugins that ``FLOWTUNE_PLUGINS`` excludes.
    """

    def __init__(self, points: list[EntryPoint], left_out: list[str]) -> None:
        self.problems: list[Problem] = []
        self.plugins: list[Plugin] = []
        self.left_out = left_out
        self._objects: dict[Plugin, Any] = {}
        self._called: set[str] = set()
        self._entries: dict[tuple[Kind, str], list[tuple[Plugin, Entry]]] = {}
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(Hooks)
        for point in points:
            self._load(point)

    def get(self, kind: Kind, name: str) -> Any:
        """The thing of that kind and name.

        Raises:
            UsageError: there is none, or more than one plugin brings one.
        """
        entry = self.entries(kind).get(name)
        if entry is not None:
            return entry.thing
        rivals = self._entries.get((kind, name))
        if rivals:
            raise UsageError(_conflict(kind, name, [plugin for plugin, _ in rivals]))
        raise self.unknown(kind, name)

    def task(self, name: str) -> type[Task]:
        return cast("type[Task]", self.get("task", name))

    def node_type(self, kind: str) -> type[Node]:
        return cast("type[Node]", self.get("node type", kind))

    def exploration(self, name: str) -> type[Exploration]:
        return cast("type[Exploration]", self.get("exploration", name))

    def make_exploration(self, setting: str | Mapping[str, Any]) -> Exploration:
        """The exploration strategy that a node's setting ``exploration`` describes."""
        name, options = name_and_options(setting)
        return self.exploration(name)(**options)

    def reward(self, name: str) -> Callable[..., Any]:
        return cast("Callable[..., Any]", self.get("reward", name))

    def evaluator(self, name: str) -> type[Evaluator]:
        return cast("type[Evaluator]", self.get("evaluator", name))

    def make_evaluator(self, setting: str | Mapping[str, Any]) -> Evaluator:
        """The evaluator that a node's setting ``evaluator`` describes."""
        name, options = name_and_options(setting)
        return self.evaluator(name)(**options)

    def optimizer(self, name: str) -> Callable[..., Any]:
        """The factory of that name: ``factory(parameters, **options)``."""
        return cast("Callable[..., Any]", self.get("optimizer", name))

    def postprocessor(self, name: str) -> type[PostProcessor]:
        return cast("type[PostProcessor]", self.get("post-processor", name))

    def model(self, name: str) -> ModelSource:
        return cast(ModelSource, self.get("model", name))

    def tracker(self, name: str) -> Callable[..., Any]:
        """The factory of that name: ``factory(run)``."""
        return cast("Callable[..., Any]", self.get("tracker", name))

    @property
    def commands(self) -> Mapping[str, Entry]:
        return self.entries("command")

    def entries(self, kind: Kind) -> dict[str, Entry]:
        """Everything of one kind by name, without names that several plugins use."""
        self._call(HOOKS[kind])
        return {
            name: found[0][1]
            for (of, name), found in sorted(self._entries.items())
            if of == kind and len(found) == 1
        }

    def contested(self, kind: Kind) -> set[str]:
        """Names of this kind that several plugins use, so that they are ambiguous."""
        self._call(HOOKS[kind])
        return {name for (of, name), found in self._entries.items() if of == kind and found[1:]}

    def brought_by(self, plugin: Plugin) -> list[Entry]:
        """Everything that one plugin registers."""
        self.load_all()
        everything = [pair for found in self._entries.values() for pair in found]
        return [entry for owner, entry in everything if owner == plugin]

    def load_all(self) -> None:
        """Call every hook, so that ``problems`` is complete."""
        for hook in CHECKS:
            self._call(hook)

    def failed(self, kind: Kind) -> list[Plugin]:
        """Plugins that failed, and might have registered something of this kind."""
        self._call(HOOKS[kind])
        return list(dict.fromkeys(p.plugin for p in self.problems if p.hook in ("", HOOKS[kind])))

    def report(self, entry: Entry, error: str) -> None:
        """Record a problem with something that passed the checks."""
        owner = next(o for o, e in self._entries[entry.kind, entry.name] if e == entry)
        self.problems.append(Problem(owner, HOOKS[entry.kind], error))

    def unknown(self, kind: Kind, name: str) -> UsageError:
        """The error for an unknown name, with possible explanations."""
        message = str(unknown_name(kind, name, list(self.entries(kind))))
        suspects = self.failed(kind)
        if suspects:
            listed = ", ".join(str(plugin) for plugin in suspects)
            message += f" It may come from a plugin that failed: {listed}; see 'flowtune plugins'."
        if self.left_out:
            message += f" FLOWTUNE_PLUGINS leaves out: {', '.join(self.left_out)}."
        return UsageError(message)

    def _load(self, point: EntryPoint) -> None:
        distribution, version = _distribution(point)
        plugin = Plugin(point.name, distribution, version, point.value)
        self.plugins.append(plugin)
        try:
            loaded = point.load()
            implementation = loaded() if isinstance(loaded, type) else loaded
            self._manager.register(implementation, name=f"{distribution}:{point.name}")
        # SystemExit too: a plugin may not end the program by being imported.
        except (Exception, SystemExit) as error:
            self.problems.append(_failure(plugin, "", "cannot be imported", error))
            return
        self._objects[plugin] = implementation
        hooks = self._manager.get_hookcallers(implementation) or []
        if not hooks:
            self.problems.append(
                Problem(plugin, "", "has no hook: mark its functions with @flowtune_cli.hookimpl")
            )
        for hook in hooks:
            if not hook.has_spec():
                wrong = unknown_name("hook", hook.name, sorted(CHECKS))
                self.problems.append(Problem(plugin, "", str(wrong)))

    def _call(self, hook: str) -> None:
        """Call a hook plugin by plugin, so that a failure affects no other plugin."""
        if hook in self._called:
            return
        self._called.add(hook)
        for plugin, implementation in self._objects.items():
            others = [other for other in self._objects.values() if other is not implementation]
            caller = self._manager.subset_hook_caller(hook, others)
            try:
                caller(register=self._registrar(hook, plugin))
            except (Exception, SystemExit) as error:
                self.problems.append(_failure(plugin, hook, f"{hook} failed", error))
        for (kind, name), found in self._entries.items():
            if HOOKS[kind] == hook and len(found) > 1:
                owners = [owner for owner, _ in found]
                problem = _conflict(kind, name, owners)
                self.problems += [Problem(owner, hook, problem) for owner in dict.fromkeys(owners)]

    def _registrar(self, hook: str, plugin: Plugin) -> Callable[..., None]:
        """The ``register`` function for a plugin: checks the object, and records its owner."""

        def register(*arguments: Any) -> None:
            try:
                kind, name = CHECKS[hook](*arguments)
            except Refused as error:
                self.problems.append(Problem(plugin, hook, str(error)))
                return
            entry = Entry(name, kind, arguments[-1], plugin.name, plugin.distribution)
            self._entries.setdefault((kind, name), []).append((plugin, entry))

        return register


def load_registry() -> Registry:
    """Find the installed plugins and import those wanted.

    ``FLOWTUNE_PLUGINS`` narrows them to the entry points that it names, separated by commas; the
    empty text leaves flowtune's own alone, which is always loaded.

    Raises:
        UsageError: ``FLOWTUNE_PLUGINS`` names a plugin that is not installed.
    """
    points = sorted(
        entry_points(group=GROUP), key=lambda p: (not _builtin(p), p.name, _distribution(p))
    )
    wanted = os.environ.get("FLOWTUNE_PLUGINS")
    if wanted is None:
        return Registry(points, [])
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    installed = [point.name for point in points]
    for name in names:
        if name not in installed:
            raise UsageError(f"FLOWTUNE_PLUGINS: {unknown_name('plugin', name, installed)}")
    kept = [point for point in points if point.name in names or _builtin(point)]
    left_out = [point.name for point in points if point not in kept]
    return Registry(kept, left_out)


def _builtin(point: EntryPoint) -> bool:
    return point.name == "builtin" and point.value == "flowtune_cli.registry.builtins"


def _distribution(point: EntryPoint) -> tuple[str, str]:
    assert point.dist is not None
    return point.dist.name, point.dist.version


def _failure(plugin: Plugin, hook: str, what: str, error: BaseException) -> Problem:
    text = f"{what}: {type(error).__name__}: {error}"
    return Problem(plugin, hook, text, "".join(traceback.format_exception(error)))


def _conflict(kind: Kind, name: str, plugins: list[Plugin]) -> str:
    owners = list(dict.fromkeys(plugins))
    if len(owners) == 1:
        return f"{kind} '{name}' is registered twice by plugin {owners[0]}"
    listed = " and ".join(str(owner) for owner in owners)
    return (
        f"{kind} '{name}' comes from more than one plugin: {listed}."
        f" Uninstall one, or name the plugins that you want in FLOWTUNE_PLUGINS."
    )
