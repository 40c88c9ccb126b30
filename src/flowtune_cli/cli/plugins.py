"""``flowtune plugins``: what is installed, what it brings, and what is wrong with it."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from . import stdout
from .options import JsonOption
from .output import print_json, print_rows
from .plugin_commands import fully_loaded_registry


def plugins(
    context: typer.Context,
    hooks: Annotated[
        bool, typer.Option("--hooks", help="List the hooks that a plugin can implement.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show every plugin with what it brings and its problems."""
    if hooks:
        rows = _hooks()
        if json:
            print_json(rows)
        else:
            print_rows(["hook", "help"], rows)
        return
    registry = fully_loaded_registry(context)
    shown: list[dict[str, Any]] = []
    for plugin in registry.plugins:
        brings: dict[str, list[str]] = {}
        for entry in registry.brought_by(plugin):
            brings.setdefault(entry.kind, []).append(entry.name)
        problems = [problem for problem in registry.problems if problem.plugin == plugin]
        shown.append(
            {
                "name": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "module": plugin.value,
                "brings": brings,
                "problems": [{"error": p.error, "traceback": p.traceback} for p in problems],
            }
        )
    if json:
        print_json(shown)
        return
    for row in shown:
        stdout.write(f"{row['name']} ({row['distribution']} {row['version']}) {row['module']}")
        for kind, names in row["brings"].items():
            stdout.write(f"  {kind}: {', '.join(names)}")
        for problem in row["problems"]:
            stdout.write(f"  PROBLEM: {problem['error']}")
            for line in problem["traceback"].splitlines():
                stdout.write(f"    {line}")
    if registry.left_out:
        stdout.write(f"left out by FLOWTUNE_PLUGINS: {', '.join(registry.left_out)}")


def _hooks() -> list[dict[str, Any]]:
    from ..registry.checks import CHECKS
    from ..registry.hookspecs import Hooks

    return [{"hook": name, "help": inspect.getdoc(getattr(Hooks, name)) or ""} for name in CHECKS]
