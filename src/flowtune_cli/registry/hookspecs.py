"""Every hook of flowtune on one screen. A plugin implements those it needs.

Each hook receives ``register`` and calls it once for each thing that it registers, so that flowtune
can check it, refuse a second one of the same name, and attribute it to the plugin. A plugin is a
module (or class) named by an entry point of the group ``flowtune``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from ..flow.model_source import ModelSource
    from ..flow.node import Exploration, Node
    from ..flow.postprocessing import PostProcessor
    from ..flow.task import Task
    from ..trackers.tracker import TrackerFactory

GROUP = "flowtune"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Hooks:
    """The hooks. What they register is described by the types that ``flowtune_cli`` exports."""

    @hookspec
    def register_tasks(self, register: Callable[[type[Task]], None]) -> None:
        """``register(task_class)``: subclasses of ``Task``, known by their ``name``."""

    @hookspec
    def register_node_types(self, register: Callable[[type[Node]], None]) -> None:
        """``register(node_class)``: dataclasses that subclass ``Node``, known by their ``kind``."""

    @hookspec
    def register_explorations(self, register: Callable[[type[Exploration]], None]) -> None:
        """``register(exploration_class)``: subclasses of ``Exploration``, known by their ``name``.

        The options of a node's setting ``exploration`` are the keyword arguments of the class.
        """

    @hookspec
    def register_rewards(self, register: Callable[[Any], None]) -> None:
        """``register(thing)``: a reward function, known by its ``__name__``, or an evaluator class.

        A reward function is listed and documented; flows call it themselves. An evaluator class is
        an ``Evaluator`` with a ``name``. The options of a node's setting ``evaluator`` are the
        keyword arguments of the class, which need defaults.
        """

    @hookspec
    def register_optimizers(self, register: Callable[[str, Callable[..., Any]], None]) -> None:
        """``register(name, factory)``: ``factory(parameters, **options)`` returns an optimizer.

        ``parameters`` are the ``torch.nn.Parameter`` of one node's adapter, ``options`` come from
        the settings. The result is a ``torch.optim.Optimizer`` whose state holds tensors and
        numbers only, since it is saved as safetensors. Import torch inside the factory.
        """

    @hookspec
    def register_postprocessors(self, register: Callable[[type[PostProcessor]], None]) -> None:
        """``register(class)``: subclasses of ``PostProcessor``, offered by their ``name``."""

    @hookspec
    def register_models(self, register: Callable[[ModelSource], None]) -> None:
        """``register(source)``: objects of subclasses of ``ModelSource``, known by their ``name``.

        ``model.name`` in the settings selects one.
        """

    @hookspec
    def register_trackers(self, register: Callable[[str, TrackerFactory], None]) -> None:
        """``register(name, factory)``: ``factory(run: TrackedRun)`` returns a ``Tracker``.

        It is called only in runs whose setting ``run.trackers`` names it: import what it needs
        inside.
        """

    @hookspec
    def register_commands(self, register: Callable[[str, Callable[..., Any]], None]) -> None:
        """``register(name, function)``: a typed function that becomes ``flowtune NAME``.

        Typer reads its signature: parameters without a default are arguments, the others options;
        its docstring is the help. An int that it returns is the exit code; a ``FlowtuneError`` is
        printed without a traceback and ends the command with its ``exit_code``.
        """
