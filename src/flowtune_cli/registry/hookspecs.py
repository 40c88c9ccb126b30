"""Every hook of flowtune on one screen. A plugin implements those it needs.

Each hook gets ``register`` and calls it once for each thing that it brings, so that flowtune can
check the thing, refuse a second one of the same name, and remember whose it is. A plugin is a
module (or class) named by an entry point of the group ``flowtune``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pluggy

GROUP = "flowtune"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Hooks:
    """The hooks."""

    @hookspec
    def register_tasks(self, register: Callable[[type], None]) -> None:
        """``register(task_class)``: subclasses of Task."""

    @hookspec
    def register_node_types(self, register: Callable[[type], None]) -> None:
        """``register(node_class)``: subclasses of Node, known by their ``kind``."""

    @hookspec
    def register_explorations(self, register: Callable[[type], None]) -> None:
        """``register(exploration_class)``: subclasses of Exploration, known by their ``name``."""

    @hookspec
    def register_rewards(self, register: Callable[[Any], None]) -> None:
        """``register(thing)``: a reward function, or a class of evaluators with a ``name``."""

    @hookspec
    def register_optimizers(self, register: Callable[[str, Callable[..., Any]], None]) -> None:
        """``register(name, factory)``: ``factory(parameters, **options)`` gives an optimizer."""

    @hookspec
    def register_postprocessors(self, register: Callable[[type], None]) -> None:
        """``register(class)``: subclasses of PostProcessor, offered by their ``name``."""

    @hookspec
    def register_models(self, register: Callable[[Any], None]) -> None:
        """``register(source)``: objects of subclasses of ModelSource, known by their ``name``."""

    @hookspec
    def register_trackers(self, register: Callable[[str, Callable[..., Any]], None]) -> None:
        """``register(name, factory)``: ``factory(run)`` gives something that figures are logged to.

        It has the methods ``log(episodes, figures)`` and ``close()``; ``run`` has ``name``, ``id``,
        ``path``, ``task`` and ``settings``.
        """

    @hookspec
    def register_commands(self, register: Callable[[str, Callable[..., Any]], None]) -> None:
        """``register(name, function)``: a typed function that becomes ``flowtune NAME``."""
