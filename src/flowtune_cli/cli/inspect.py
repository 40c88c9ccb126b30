"""``flowtune inspect``: browse runs in the terminal, during training or afterwards."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..flow.errors import UsageError, missing_package
from . import options, stdout
from .completion import complete_run
from .options import ConfigOption, SetOption
from .output import note


def inspect(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|DIR]",
            help="A run's name or path, or a directory of runs; by default all runs.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ] = None,
    web: Annotated[
        bool, typer.Option("--web", help="Use a browser on this machine instead.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port of --web; 0 picks a free one.")
    ] = 8000,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Browse runs in the terminal, also while they train: do they learn, and why?"""
    from ..flow.paths import expanded
    from ..registry import load_registry
    from ..runs.directory import RunDirectory

    if not web and not _on_terminal():
        raise UsageError(
            "flowtune inspect needs a terminal for input and output. 'flowtune report RUN' writes a"
            " page instead."
        )
    resolved = options.settings(load_registry(), config=config, overrides=set_)
    parent = resolved.settings.run.directory
    path, is_run = parent, False
    if run is not None:
        path = expanded(Path(run))
        is_run = (parent / path / "run.json").is_file() or not _has_runs(path)
        if is_run:
            path = RunDirectory.open(path, parent).path
    elif not _has_runs(parent):
        raise UsageError(
            f"there are no runs in {parent.absolute()}. Make one with 'flowtune train TASK', or"
            " look elsewhere with 'flowtune inspect DIR'."
        )
    if web:
        _serve(path, is_run=is_run, port=port)
        return
    from ..tui.app import InspectApp

    InspectApp(path, is_run=is_run).run()


def _serve(path: Path, *, is_run: bool, port: int) -> None:
    if importlib.util.find_spec("textual_serve") is None:
        raise missing_package("--web", "textual-serve", "web")
    from ..tui.web import serve

    def show_address(address: str) -> None:
        note("open this in a browser on this machine; Ctrl-C stops it")
        typer.echo(address, err=True)

    serve(path, is_run=is_run, port=port, on_ready=show_address)


def _on_terminal() -> bool:
    return sys.stdin.isatty() and stdout.stream().isatty()


def _has_runs(path: Path) -> bool:
    return not (path / "run.json").is_file() and any(path.glob("*/run.json"))
