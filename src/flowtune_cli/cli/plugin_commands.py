"""The commands that plugins bring, made out of the functions that they register."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import typer
from typer.main import get_command

from .command import PluginCommand

if TYPE_CHECKING:
    from ..registry import Registry


def plugin_commands(registry: Registry, own: Collection[str]) -> dict[str, Any]:
    """The commands of plugins by name. One that cannot be used is a problem of its plugin.

    Args:
        own: the names of flowtune's own commands, which no plugin can take.
    """
    commands: dict[str, Any] = {}
    for name, entry in registry.commands.items():
        if name in own:
            registry.report(entry, f"command '{name}': flowtune has a command of this name")
            continue
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(name, cls=PluginCommand)(entry.thing)
        try:
            commands[name] = get_command(single)
        except Exception as error:  # whatever its annotations do, the other commands stay
            text = f"{type(error).__name__}: {error}"
            registry.report(entry, f"command '{name}' cannot be made a command: {text}")
    return commands


def fully_loaded_registry(context: typer.Context) -> Registry:
    """The registry with every hook called and every command made, so its problems are complete."""
    from ..registry import load_registry

    registry = load_registry()
    registry.load_all()
    root: Any = context.find_root().command
    plugin_commands(registry, root.own)
    return registry
