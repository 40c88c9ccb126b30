"""What ``flowtune show`` shows of a thing, as JSON values; defaults and values are TOML texts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .describe import Option, argument_help, options, signature, summary, type_text

if TYPE_CHECKING:
    from ..flow.node import Node
    from ..flow.task import Task
    from ..registry import Entry

Described = dict[str, Any]


def described_section(name: str) -> Described:
    """A section of the settings."""
    from ..config.settings import SECTIONS

    section = SECTIONS[name]
    return {
        "kind": "section",
        "name": name,
        "summary": summary(section),
        "options": _options(options(section)),
    }


def described(entry: Entry) -> Described:
    """A thing that a plugin brings."""
    about = {
        "kind": entry.kind,
        "name": entry.name,
        "plugin": entry.plugin,
        "distribution": entry.distribution,
    }
    return {**about, **_OF_KIND.get(entry.kind, _thing)(entry)}


def _thing(entry: Entry) -> Described:
    own = [option for option in options(entry.thing) if option.name != "name"]
    return {"help": _help(entry.thing), "options": _options(own)}


def _reward(entry: Entry) -> Described:
    return {
        "signature": entry.name + type_text(str(signature(entry.thing))),
        "help": _help(entry.thing),
    }


def _task(entry: Entry) -> Described:
    from pydantic import ValidationError

    task: type[Task] = entry.thing
    missing: list[str] = []
    nodes: list[Described] = []
    try:
        settings = None if task.Settings is None else task.Settings()
        nodes += [_node(node) for node in task.default_nodes(settings)]
    except ValidationError as error:
        missing += [".".join(map(str, each["loc"])) for each in error.errors()]
    return {
        "summary": task.summary or summary(task),
        "splits": list(task.splits),
        "gate": task.gate,
        "defaults": {key: _toml(value) for key, value in task.defaults.items()},
        "presets": [
            {
                "name": preset.name,
                "summary": preset.summary,
                "models": list(preset.models),
                "settings": {key: _toml(value) for key, value in preset.settings.items()},
            }
            for preset in task.presets
        ],
        "settings": None
        if task.Settings is None
        else {"summary": summary(task.Settings), "options": _options(options(task.Settings))},
        "nodes": nodes,
        "nodes_need": missing,
    }


def _node(node: Node) -> Described:
    """A node of a task: its settings with the values that the task gives them."""
    from ..config.schema import field_types
    from ..flow.prompt import Template

    helps, rows = argument_help(type(node)), []
    shows: dict[str, list[str]] = {}
    for field, kind in field_types(type(node)).items():
        value = getattr(node, field)
        if field == "name":
            continue
        if isinstance(value, Template):
            prompt_helps = argument_help(Template)
            for part, part_type in field_types(Template).items():
                shown = _toml(getattr(value, part))
                row = Option(f"{field}.{part}", type_text(part_type), shown, prompt_helps[part])
                rows.append(row)
            shows[field] = sorted(value.fields)
        else:
            rows.append(Option(field, type_text(kind), _toml(value), helps.get(field, "")))
    return {
        "name": node.name,
        "kind": node.kind,
        "summary": summary(type(node)),
        "shows": shows,
        "options": _options(rows),
    }


_OF_KIND: Mapping[str, Callable[[Entry], Described]] = {"task": _task, "reward": _reward}


def _options(found: list[Option]) -> list[dict[str, str]]:
    return [dict(vars(option)) for option in found]


def _help(thing: Any) -> str:
    return inspect.cleandoc(thing.__doc__ or "").partition("\nArgs:")[0].rstrip()


def _toml(value: Any) -> str:
    from ..config.template import toml_value

    return toml_value(value)
