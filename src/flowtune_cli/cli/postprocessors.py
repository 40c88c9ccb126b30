"""Adds the post-processors of plugins to a command, each as a flag ``--NAME``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.main import get_command

from ..flow.errors import UsageError, unknown_name
from .command import OwnCommand
from .describe import summary
from .stdout import foreign

if TYPE_CHECKING:
    from ..flow.node import Exploration
    from ..flow.postprocessing import PostProcessor
    from ..flow.task import Task
    from ..registry import Registry

_FLAGS = f"{__name__}.flags"
_SELECTED = f"{__name__}.selected"


class PostProcessorFlags(OwnCommand):
    """A command with a flag for each installed post-processor; see ``selected_postprocessors``."""

    def get_params(self, ctx: Any) -> Any:
        """The command's own parameters, then the flags, for which plugins are loaded once."""
        own = super().get_params(ctx)
        if _FLAGS not in ctx.meta:
            from ..registry import load_registry

            own_names = {name for parameter in own for name in parameter.opts}
            with foreign():
                ctx.meta[_FLAGS] = _flags(load_registry(), own_names)
        return [*own[:-1], *ctx.meta[_FLAGS], own[-1]]  # the last is --help


def selected_postprocessors(
    context: typer.Context, registry: Registry, task: Task
) -> list[PostProcessor]:
    """The post-processors whose flags are set.

    Raises:
        UsageError: one is not for this task; suggests the nearest one that is.
    """
    available = [
        name
        for name, entry in registry.entries("post-processor").items()
        if task.name in entry.thing.tasks
    ]
    selected = []
    for name in selected_names(context):
        thing = registry.postprocessor(name)
        if name not in available:
            error = unknown_name(f"post-processor of task '{task.name}'", name, available)
            raise UsageError(f"{error} '{name}' is for {', '.join(thing.tasks)}.")
        selected.append(thing())
    return selected


def selected_names(context: typer.Context) -> list[str]:
    """The names of those whose flags are set."""
    return list(context.meta.get(_SELECTED, []))


def explorations(
    processors: list[PostProcessor], task: Task, registry: Registry
) -> Mapping[str, Exploration]:
    """The strategies of the nodes whose alternatives the post-processors need, by node name.

    Raises:
        UsageError: the task has no such node.
    """
    strategies = {}
    for processor in processors:
        for name in processor.nodes:
            if name not in task.nodes_by_name:
                error = unknown_name(f"node of task '{task.name}'", name, list(task.nodes_by_name))
                raise UsageError(f"post-processor '{processor.name}': {error}")
            node = task.node(name)
            strategies[name] = registry.make_exploration(node.exploration)
    return dict(sorted(strategies.items()))


def _flags(registry: Registry, own_names: set[str]) -> list[Any]:
    """Options that record that they are set. A name conflict is reported as a plugin problem."""
    flags = {}
    for name, entry in registry.entries("post-processor").items():
        if f"--{name}" in own_names:
            registry.report(entry, f"post-processor '{name}': a command has an option --{name}")
            continue
        for_tasks = f"Post-processor for {', '.join(entry.thing.tasks)}: {summary(entry.thing)}"
        flags[name] = Annotated[bool, typer.Option(f"--{name}", help=for_tasks)]
    for name in registry.contested("post-processor"):  # using it is an error that names the plugins
        flags[name] = Annotated[bool, typer.Option(f"--{name}", hidden=True)]

    def signature(**values: bool) -> None: ...

    keyword = inspect.Parameter.KEYWORD_ONLY
    annotations = {f"flag_{number}": flag for number, flag in enumerate(flags.values())}
    signature.__annotations__ = annotations
    cast(Any, signature).__signature__ = inspect.Signature(
        [inspect.Parameter(n, keyword, default=False, annotation=f) for n, f in annotations.items()]
    )
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(signature)
    command: Any = get_command(app)
    for name, option in zip(flags, command.params, strict=True):
        option.expose_value = False
        option.callback = _record(name)
    return list(command.params)


def _record(name: str) -> Any:
    def record(context: Any, option: Any, value: bool) -> None:
        if value:
            context.meta.setdefault(_SELECTED, []).append(name)

    return record
