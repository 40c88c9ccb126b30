"""``flowtune report``: runs on one page, or their figures as JSON."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..flow.errors import UsageError, missing_package
from .options import ConfigOption, JsonOption, SetOption
from .output import note, print_json

# More would not be seen in a plot. Where there are enough windows, these are their ends.
_POINTS = 200


def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="The runs: their names or paths.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the page there, as one HTML file.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a page that is there already.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Put runs on paper: learning curves, nodes, preferences and settings; several are compared."""
    from ..registry import load_registry
    from ..report.figures import as_json, run_figures
    from .run_settings import find_run

    if out is None and not json:
        raise UsageError("say where to write the page: --out report.html; or --json for figures")
    if out is not None and find_spec("matplotlib") is None:
        raise missing_package("an HTML report", "matplotlib", "report")
    registry = load_registry()
    found = [find_run(registry, run, config, set_) for run in runs]
    figures = [run_figures(run, None if json else _POINTS) for run in found]
    if out is not None:
        from ..report.page import render
        from ..runs.export_files import new_file

        command = ["flowtune", "report", *runs, "--out", str(out)]
        with new_file(out, overwrite=overwrite) as file:
            file.write(render(figures, command))
        note(f"{out}: open it in a browser, or print it")
    if json:
        print_json({"runs": [as_json(run) for run in figures]})
