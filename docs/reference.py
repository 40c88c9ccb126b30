"""Writes docs/reference.md: commands, settings, hooks and built-in things, out of the program.

python docs/reference.py
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from typer.main import get_command

import flowtune_cli
from flowtune_cli import testing
from flowtune_cli.cli.describe import Option, options, signature, summary, type_text
from flowtune_cli.cli.main import COMMANDS, GROUPS, app
from flowtune_cli.config.settings import SECTIONS
from flowtune_cli.registry import Entry, Kind, Registry, load_registry
from flowtune_cli.registry.checks import CHECKS
from flowtune_cli.registry.hookspecs import GROUP, Hooks

FILE = Path(__file__).with_name("reference.md")
BUILTIN: dict[str, Sequence[Kind]] = {
    "Node types": ("node type",),
    "Exploration strategies": ("exploration",),
    "Rewards and evaluators": ("reward", "evaluator"),
    "Optimizers": ("optimizer",),
}
HEAD = """\
# Reference

Made by `python docs/reference.py` from the program itself; do not edit it by hand. `flowtune show`
and `flowtune ls` print the same for whatever is installed, plugins included.
"""
NODE = [option for option in options(flowtune_cli.Node) if option.name != "name"]
SETTINGS = """\
A setting is looked for in this order; the first place that has it counts: an option such as
`--limit`; `--set section.key=value`; a variable such as `FLOWTUNE_TRAINING__SEED`; the settings
file (`flowtune.toml` here, or `--config FILE`); the preset that is chosen by `--preset`,
`FLOWTUNE_PRESET` or `preset = "NAME"` at the top of the file, or is the model's default one; the
task's defaults; flowtune's own. `flowtune config TASK` prints the effective settings and their
sources.

Tables are merged key by key. A choice with options, such as `learning.optimizer = {name = "adam",
lr = 1e-4}`, is replaced as a whole; its name alone, `"adam"`, is short for one without options.

In a path, `~` is the home directory. A relative path belongs to where it is written: in a settings
file to the file's own directory, everywhere else to the current one. This goes for every setting
whose type is a path, those of plugins too, and for `model.name` where it is a directory or a GGUF
file. A run stores absolute paths, and a digest of a local model's weights: where the model has been
moved, `--set model.name=PATH` says where it is now, and other weights are refused.
Another tokenizer or chat template there is warned of. A model of the hub is kept by the commit that
the run began with, unless `model.revision` names another.
"""


def reference() -> str:
    """The whole page. It depends on flowtune alone: not on other plugins, nor on the terminal."""
    lines = [HEAD, "## Commands", ""]
    lines += _commands()
    lines += ["## Settings", "", SETTINGS]
    for name, section in SECTIONS.items():
        lines += [f"### `[{name}]`", "", _text(section), ""]
        lines += _options(options(section))
    lines += ["## Hooks", "", f"The group of entry points is `{GROUP}`.", ""]
    for hook in CHECKS:
        function = getattr(Hooks, hook)
        types = [p.annotation for p in list(signature(function).parameters.values())[1:]]
        lines.append(f"- `{hook}(register: {type_text(types[0])})`: {_text(function)}")
    registry = _builtin()
    for title, kinds in BUILTIN.items():
        lines += ["", f"## {title}", ""]
        if title == "Node types":
            lines += ["What every node has:", "", *_options(NODE)]
        for kind in kinds:
            for entry in registry.entries(kind).values():
                lines += _thing(entry)
    lines += ["## What a plugin imports", "", "All of it from `flowtune_cli`.", ""]
    public = {name: about(name) for name in flowtune_cli.__all__}
    lines += _table(["name", "what"], ([f"`{n}`", _inline(text)] for n, text in public.items()))
    lines += ["### What a flow calls", ""]
    episode = flowtune_cli.Episode
    for method in (episode.call, episode.reward, episode.target, episode.effect):
        lines.append(f"- `episode.{method.__name__}{_call(method)}`: {_inline(summary(method))}")
    lines += [
        "",
        "## What a plugin's tests import",
        "",
        "All of it from `flowtune_cli.testing`.",
        "",
    ]
    helpers = {name: summary(getattr(testing, name)) for name in testing.__all__}
    lines += _table(["name", "what"], ([f"`{n}`", _inline(text)] for n, text in helpers.items()))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _commands() -> Iterator[str]:
    made: Any = get_command(app)
    functions = [("flowtune", made, function) for function in COMMANDS]
    for group in GROUPS:
        name = group.info.name
        of_group = [info.callback for info in group.registered_commands]
        functions += [(f"flowtune {name}", made.commands[name], found) for found in of_group]
    for program, parent, function in functions:
        command = parent.commands[function.__name__]
        types = {
            p.name: p.annotation
            for p in inspect.signature(function, eval_str=True).parameters.values()
        }
        usage = [f"{program} {command.name}"]
        rows = []
        for parameter in command.params:
            kind = parameter.metavar or _kind(types[parameter.name])
            if parameter.param_type_name == "argument":
                shown = kind if parameter.metavar else parameter.name.upper()
                usage.append(shown if parameter.required else f"[{shown}]")
            else:
                shown = parameter.opts[0] + ("" if parameter.is_flag else f" {kind}")
                if parameter.required:
                    usage.append(shown)
            rows.append([f"`{_cell(shown)}`", _inline(parameter.help)])
        yield from [f"### `{usage[0]}`", "", _inline(command.help), ""]
        yield from ["```text", " ".join([*usage, "[OPTIONS]"]), "```", ""]
        yield from _table(["option", "what"], rows)


def _builtin() -> Registry:
    """flowtune's own things, whatever else is installed."""
    before = os.environ.get("FLOWTUNE_PLUGINS")
    os.environ["FLOWTUNE_PLUGINS"] = ""
    try:
        return load_registry()
    finally:
        del os.environ["FLOWTUNE_PLUGINS"]
        if before is not None:
            os.environ["FLOWTUNE_PLUGINS"] = before


def _thing(entry: Entry) -> Iterator[str]:
    yield from [f"### `{entry.name}`", ""]
    if entry.kind == "reward":
        yield from [f"`{entry.name}{_call(entry.thing)}`", ""]
    if entry.kind == "evaluator":
        yield from ["An evaluator.", ""]
    yield from [_text(entry.thing), ""]
    if entry.kind != "reward":
        known = {"name"} | ({o.name for o in NODE} if entry.kind == "node type" else set())
        yield from _options(option for option in options(entry.thing) if option.name not in known)


def about(name: str) -> str:
    """What a public name is, in a line."""
    public = getattr(flowtune_cli, name)
    if name == "hookimpl":
        return "Marks a function of a plugin as the implementation of the hook of its name."
    if isinstance(public, type) or inspect.isfunction(public):
        return summary(public)
    if text := _text_below_assignment(name):
        return text
    kinds = [getattr(kind, "__name__", repr(kind)) for kind in get_args(public)]
    return f"One of {', '.join(kinds)}."


def _text_below_assignment(name: str) -> str:
    """The string below the assignment of a public constant or type alias, where it is defined."""
    for statement in ast.parse(inspect.getsource(flowtune_cli)).body:
        if isinstance(statement, ast.ImportFrom) and name in [a.name for a in statement.names]:
            module = importlib.import_module(f"flowtune_cli.{statement.module}")
            body = ast.parse(inspect.getsource(module)).body
            for assignment, below in itertools.pairwise(body):
                if (
                    isinstance(assignment, ast.Assign)
                    and [ast.unparse(target) for target in assignment.targets] == [name]
                    and isinstance(below, ast.Expr)
                    and isinstance(below.value, ast.Constant)
                ):
                    return str(below.value.value)
    return ""


def _call(function: Any) -> str:
    """The signature as it is called, without ``self``."""
    found = signature(function)
    given = [p for p in found.parameters.values() if p.name != "self"]
    return type_text(str(found.replace(parameters=given))).replace("'", "")


def _kind(annotation: Any) -> str:
    """What an option's value is, for one whose author gave it no name."""
    given = get_args(annotation)[0]
    wanted = [kind for kind in get_args(given) or (given,) if kind is not type(None)]
    return str(wanted[0].__name__).upper()


def _options(found: Iterable[Option]) -> list[str]:
    rows = [
        [f"`{o.name}`", f"`{_cell(o.type)}`", f"`{_cell(o.default)}`" if o.default else "", o.help]
        for o in found
    ]
    return _table(
        ["option", "type", "default", "what"], ([*row[:3], _inline(row[3])] for row in rows)
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(row) for row in rows]
    return [*(f"| {line} |" for line in lines), ""] if len(lines) > 2 else []


def _text(thing: Any) -> str:
    """A docstring without its arguments, as Markdown."""
    text = inspect.cleandoc(thing.__doc__ or "").partition("\nArgs:")[0].rstrip()
    return text.replace("``", "`")


def _inline(text: str | None) -> str:
    """A text on one line of a table."""
    return _cell(" ".join((text or "").split()).replace("``", "`"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
