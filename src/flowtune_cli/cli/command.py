"""What every command does with its paths and its output, be it flowtune's or a plugin's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from . import stdout, verbosity


class _Command(TyperCommand):
    """A command in whose paths '~' is the home directory: shells leave that of ``--out=~/x``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # While its value is completed, an option without one keeps the arguments from being known.
        if ctx.resilient_parsing and args and args[-1].startswith("-"):
            args = args[:-1]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        ctx.params = {name: _expanded(value) for name, value in ctx.params.items()}
        return super().invoke(ctx)


class OwnCommand(_Command):
    """A command of flowtune: its own output is what it writes by ``stdout.write``.

    It has the options ``--verbose`` and ``--quiet``, of which its function is told nothing.
    """

    _levels: list[Any] | None = None

    def get_params(self, ctx: Any) -> Any:
        if self._levels is None:
            self._levels = verbosity.parameters()
        *own, help_option = super().get_params(ctx)
        return [*own, *self._levels, help_option]

    def invoke(self, ctx: Any) -> Any:
        ctx.params = {name: stdout.own_path(value) for name, value in ctx.params.items()}
        with stdout.foreign():
            return super().invoke(ctx)


class PluginCommand(_Command):
    """A command of a plugin: all that it prints is its output, and that of its subprocesses."""

    def invoke(self, ctx: Any) -> Any:
        with stdout.given_back():
            return super().invoke(ctx)


def _expanded(value: Any) -> Any:
    if isinstance(value, Path) and value.parts[:1] and value.parts[0].startswith("~"):
        from ..flow.paths import expanded

        return expanded(value)
    return [_expanded(each) for each in value] if isinstance(value, list) else value
