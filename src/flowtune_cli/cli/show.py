"""``flowtune show``: all settings of one task, node type, strategy and the like, with help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..flow.errors import UsageError, unknown_name
from . import stdout
from .completion import complete_thing
from .describe import Option, argument_help, options, signature, summary, type_text
from .output import note, print_rows, warn

if TYPE_CHECKING:
    from ..flow.node import Node
    from ..flow.task import Task
    from ..registry import Entry, Kind, Registry

CHEAP: tuple[Kind, ...] = (
    "task",
    "node type",
    "exploration",
    "reward",
    "evaluator",
    "post-processor",
)


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A task, node type, exploration, reward, optimizer, post-processor or section.",
            autocompletion=complete_thing,
        ),
    ],
) -> None:
    """Show all options of a task, node type, reward, optimizer, section and the like."""
    from ..config.settings import SECTIONS
    from ..registry import load_registry

    registry = load_registry()
    found = [e[name] for kind in CHEAP if name in (e := registry.entries(kind))]
    if name not in SECTIONS and not found:
        # Asked last, because the optimizers need torch, which takes seconds to import.
        optimizers = registry.entries("optimizer")
        if name not in optimizers:
            raise _unknown(registry, name, list(SECTIONS))
        found = [optimizers[name]]
    if name in SECTIONS:
        _heading(f"settings [{name}]", summary(SECTIONS[name]))
        _options(options(SECTIONS[name]))
    for entry in found:
        _heading(f"{entry.kind} {entry.name}", f"plugin {entry.plugin} ({entry.distribution})")
        SHOW.get(entry.kind, _thing)(entry)


def _unknown(registry: Registry, name: str, sections: list[str]) -> UsageError:
    """The error for a name that nothing has, or that more than one plugin gives to something."""
    kinds: tuple[Kind, ...] = (*CHEAP, "optimizer")
    for kind in kinds:
        if name in registry.contested(kind):
            registry.get(kind, name)
    for plugin in dict.fromkeys(plugin for kind in kinds for plugin in registry.failed(kind)):
        warn(f"plugin {plugin} has a problem; see 'flowtune plugins'")
    if registry.left_out:
        note(f"FLOWTUNE_PLUGINS leaves out: {', '.join(registry.left_out)}")
    known = {*sections, *(other for kind in kinds for other in registry.entries(kind))}
    return unknown_name("name", name, sorted(known))


def _thing(entry: Entry) -> None:
    _text(entry.thing)
    _options([o for o in options(entry.thing) if o.name != "name"])


def _reward(entry: Entry) -> None:
    stdout.write(entry.name + type_text(str(signature(entry.thing))))
    _text(entry.thing)


def _task(entry: Entry) -> None:
    task: type[Task] = entry.thing
    stdout.write(task.summary or summary(task))
    stdout.write(f"splits: {', '.join(task.splits)}")
    stdout.write(f"gate: {task.gate or 'none: references always move'}")
    if task.defaults:
        _heading("settings that it changes")
        _table({"setting": key, "default": _shown(value)} for key, value in task.defaults.items())
    for preset in task.presets:
        models = f" (the default with {', '.join(preset.models)})" if preset.models else ""
        _heading(f"preset {preset.name}{models}", preset.summary)
        _table({"setting": k, "value": _shown(value)} for k, value in preset.settings.items())
    if task.Settings is not None:
        _heading(f"settings [tasks.{task.name}]", summary(task.Settings))
        _options(options(task.Settings))
    from pydantic import ValidationError

    try:
        settings = None if task.Settings is None else task.Settings()
    except ValidationError as error:
        missing = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        note(f"its nodes are not shown, because these settings have no default: {missing}")
        return
    for node in task.default_nodes(settings):
        _node(task.name, node)


def _node(task: str, node: Node) -> None:
    """A node of a task: its settings with the values that the task gives them."""
    from ..config.schema import field_types
    from ..flow.prompt import Template

    _heading(f"node [tasks.{task}.nodes.{node.name}]", f"{node.kind}: {summary(type(node))}")
    helps, rows = argument_help(type(node)), []
    for field, kind in field_types(type(node)).items():
        value = getattr(node, field)
        if field == "name":
            continue
        if isinstance(value, Template):
            prompt_helps = argument_help(Template)
            for part, part_type in field_types(Template).items():
                shown = _shown(getattr(value, part))
                row = Option(f"{field}.{part}", type_text(part_type), shown, prompt_helps[part])
                rows.append(row)
            fields = ", ".join(sorted(value.fields)) or "none"
            stdout.write(f"{field} shows: {fields}")
        else:
            rows.append(Option(field, type_text(kind), _shown(value), helps.get(field, "")))
    _options(rows)


SHOW: Mapping[str, Callable[[Entry], None]] = {"task": _task, "reward": _reward}


def _heading(title: str, text: str = "") -> None:
    stdout.write(f"\n{title}" + (f"\n  {text}" if text else ""))


def _text(thing: Any) -> None:
    stdout.write(inspect.cleandoc(thing.__doc__ or "").partition("\nArgs:")[0].rstrip())


def _options(rows: list[Option]) -> None:
    _table(vars(option) for option in rows)


def _table(rows: Any) -> None:
    rows = list(rows)
    if rows:
        print_rows(list(rows[0]), rows)


def _shown(value: Any) -> str:
    from ..config.template import toml_value

    return toml_value(value)
