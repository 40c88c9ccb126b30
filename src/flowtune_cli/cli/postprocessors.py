"""Post-processors as flags of a command: those that plugins bring, each as ``--NAME``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperCommand
from typer.main import get_command

from ..flow.errors import UsageError, unknown_name
from .describe import summary

if TYPE_CHECKING:
    from ..flow.node import Exploration
    from ..flow.postprocessing import PostProcessor
    from ..flow.task import Task
    from ..registry import Registry

_FLAGS = f"{__name__}.flags"
_ASKED = f"{__name__}.asked"


class PostProcessorFlags(TyperCommand):
    """A command with a flag for each post-processor that is installed; see ``asked_for``."""

    def get_params(self, ctx: Any) -> Any:
        """The command's own parameters, then the flags; plugins are loaded for them once."""
        own = super().get_params(ctx)
        if _FLAGS not in ctx.meta:
            from ..registry import load_registry

            taken = {name for parameter in own for name in parameter.opts}
            ctx.meta[_FLAGS] = _flags(load_registry(), taken)
        return [*own[:-1], *ctx.meta[_FLAGS], own[-1]]  # the last is --help


def asked_for(context: typer.Context, registry: Registry, task: Task) -> list[PostProcessor]:
    """The post-processors whose flags were given.

    Raises:
        UsageError: one is not for this task; suggests the nearest that is.
    """
    known = [
        name
        for name, entry in registry.entries("post-processor").items()
        if task.name in entry.thing.tasks
    ]
    asked = []
    for name in context.meta.get(_ASKED, []):
        thing = registry.postprocessor(name)
        if name not in known:
            error = unknown_name(f"post-processor of task '{task.name}'", name, known)
            raise UsageError(f"{error} '{name}' is for {', '.join(thing.tasks)}.")
        asked.append(thing())
    return asked


def explorations(
    processors: list[PostProcessor], task: Task, registry: Registry
) -> Mapping[str, Exploration]:
    """The strategies of the nodes whose alternatives the post-processors want, by node name.

    Raises:
        UsageError: the task has no such node.
    """
    wanted = {}
    for processor in processors:
        for name in processor.nodes:
            if name not in task.nodes_by_name:
                error = unknown_name(f"node of task '{task.name}'", name, list(task.nodes_by_name))
                raise UsageError(f"post-processor '{processor.name}': {error}")
            node = task.node(name)
            wanted[name] = registry.make_exploration(node.exploration)
    return dict(sorted(wanted.items()))


def _flags(registry: Registry, taken: set[str]) -> list[Any]:
    """Options that remember that they were given. One that cannot be is a problem of its plugin."""
    given = {}
    for name, entry in registry.entries("post-processor").items():
        if f"--{name}" in taken:
            registry.report(entry, f"post-processor '{name}': a command has an option --{name}")
            continue
        for_tasks = f"Post-processor for {', '.join(entry.thing.tasks)}: {summary(entry.thing)}"
        given[name] = Annotated[bool, typer.Option(f"--{name}", help=for_tasks)]
    for name in registry.contested("post-processor"):  # using it tells whose it is
        given[name] = Annotated[bool, typer.Option(f"--{name}", hidden=True)]

    def nothing(**flags: bool) -> None: ...

    keyword = inspect.Parameter.KEYWORD_ONLY
    names = {f"flag_{number}": flag for number, flag in enumerate(given.values())}
    nothing.__annotations__ = names
    cast(Any, nothing).__signature__ = inspect.Signature(
        [inspect.Parameter(n, keyword, default=False, annotation=f) for n, f in names.items()]
    )
    maker = typer.Typer(add_completion=False, rich_markup_mode=None)
    maker.command()(nothing)
    made: Any = get_command(maker)
    for name, option in zip(given, made.params, strict=True):
        option.expose_value = False
        option.callback = _remember(name)
    return list(made.params)


def _remember(name: str) -> Any:
    def remember(context: Any, option: Any, value: bool) -> None:
        if value:
            context.meta.setdefault(_ASKED, []).append(name)

    return remember
