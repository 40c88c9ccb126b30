"""``flowtune inspect``: look at runs in the terminal, while they train or after."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..flow.errors import UsageError, missing_package
from . import options
from .options import ConfigOption, SetOption
from .output import note


def inspect(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|DIR]",
            help="A run's name or path, or a directory of runs; all runs if not given.",
            show_default=False,
        ),
    ] = None,
    web: Annotated[
        bool, typer.Option("--web", help="Look at them in a browser of this machine.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="For --web; 0 takes a free one.")
    ] = 8000,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Look at runs in the terminal: do they learn, and why; safe while they train."""
    from ..registry import load_registry
    from ..runs.directory import RunDirectory

    if not web and not _on_terminal():
        raise UsageError(
            "flowtune inspect needs a terminal, for its input and its output. 'flowtune report RUN'"
            " says the same as a file."
        )
    found = options.settings(load_registry(), config=config, overrides=set_)
    parent = Path(found.settings.run.directory)
    path, is_run = parent, False
    if run is not None:
        path = Path(run)
        is_run = (parent / run / "run.json").is_file() or not _holds_runs(path)
        if is_run:
            path = RunDirectory.open(run, parent).path
    elif not _holds_runs(parent):
        raise UsageError(
            f"there are no runs in {parent}. 'flowtune train TASK' makes one;"
            " 'flowtune inspect DIR' looks elsewhere."
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

    def say(address: str) -> None:
        note("open this in a browser of this machine; Ctrl-C ends it")
        typer.echo(address, err=True)

    serve(path, is_run=is_run, port=port, say=say)


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _holds_runs(path: Path) -> bool:
    return not (path / "run.json").is_file() and any(path.glob("*/run.json"))
