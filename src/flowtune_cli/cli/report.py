"""``flowtune report``: a page or JSON that summarizes and compares runs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..flow.errors import UsageError, missing_package
from .completion import complete_run
from .options import ConfigOption, JsonOption, SetOption
from .output import note, print_json

# A plot does not show more. If there are enough windows, the points are their ends.
_POINTS = 200


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="The runs: their names or paths.", autocompletion=complete_run
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the page, one HTML file.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing page.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Summarize runs on a page: learning curves, nodes, preferences, settings; or compare them."""
    from ..registry import load_registry
    from ..report.summary import as_json, summarize_run
    from ..runs.output_path import check_output
    from .run_overrides import find_run

    if out is None and not json:
        raise UsageError("choose --out report.html for a page, or --json for the numbers")
    if out is not None and find_spec("matplotlib") is None:
        raise missing_package("an HTML report", "matplotlib", "report")
    if out is not None:
        check_output(out, overwrite=overwrite)
    registry = load_registry()
    directories = [find_run(registry, run, config, set_) for run in runs]
    summaries = [summarize_run(run, None if json else _POINTS) for run in directories]
    if out is not None:
        from ..report.page import render
        from ..runs.atomic import new_file

        command = ["flowtune", "report", *runs, "--out", str(out)]
        with new_file(out, overwrite=overwrite) as file:
            file.write(render(summaries, command))
        note(f"wrote {out.absolute()}: open it in a browser, or print it")
    if json:
        print_json({"runs": [as_json(run) for run in summaries]})
