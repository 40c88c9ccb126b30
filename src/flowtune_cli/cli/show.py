"""``flowtune show``: all settings of one task, node type, strategy and the like, with help."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from ..flow.errors import UsageError, unknown_name
from . import stdout
from .completion import complete_thing
from .described import Described, described, described_section
from .options import JsonOption
from .output import note, print_json, print_rows, warn

if TYPE_CHECKING:
    from ..registry import Kind, Registry

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
    json: JsonOption = False,
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
    shown = [described_section(name)] if name in SECTIONS else []
    shown += [described(entry) for entry in found]
    if json:
        print_json(shown)
        return
    for each in shown:
        _SHOW.get(each["kind"], _thing)(each)


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


def _section(section: Described) -> None:
    _heading(f"settings [{section['name']}]", section["summary"])
    _table(section["options"])


def _thing(thing: Described) -> None:
    _title(thing)
    stdout.write(thing["help"])
    _table(thing["options"])


def _reward(reward: Described) -> None:
    _title(reward)
    stdout.write(reward["signature"])
    stdout.write(reward["help"])


def _task(task: Described) -> None:
    _title(task)
    name = task["name"]
    stdout.write(task["summary"])
    stdout.write(f"splits: {', '.join(task['splits'])}")
    stdout.write(f"gate: {task['gate'] or 'none: references always move'}")
    if task["defaults"]:
        _heading("settings that it changes")
        _table({"setting": key, "default": value} for key, value in task["defaults"].items())
    for preset in task["presets"]:
        models = f" (the default with {', '.join(preset['models'])})" if preset["models"] else ""
        _heading(f"preset {preset['name']}{models}", preset["summary"])
        _table({"setting": key, "value": value} for key, value in preset["settings"].items())
    if task["settings"] is not None:
        _heading(f"settings [tasks.{name}]", task["settings"]["summary"])
        _table(task["settings"]["options"])
    if task["nodes_need"]:
        missing = ", ".join(task["nodes_need"])
        note(f"its nodes are not shown, because these settings have no default: {missing}")
    for node in task["nodes"]:
        _heading(f"node [tasks.{name}.nodes.{node['name']}]", f"{node['kind']}: {node['summary']}")
        for field, fields in node["shows"].items():
            stdout.write(f"{field} shows: {', '.join(fields) or 'none'}")
        _table(node["options"])


_SHOW: Mapping[str, Callable[[Described], None]] = {
    "section": _section,
    "task": _task,
    "reward": _reward,
}


def _title(thing: Described) -> None:
    from_ = f"plugin {thing['plugin']} ({thing['distribution']})"
    _heading(f"{thing['kind']} {thing['name']}", from_)


def _heading(title: str, text: str = "") -> None:
    stdout.write(f"\n{title}" + (f"\n  {text}" if text else ""))


def _table(rows: Iterable[Mapping[str, str]]) -> None:
    rows = list(rows)
    if rows:
        print_rows(list(rows[0]), rows)
