"""The paper's table for MuSiQue, row after row: our figures beside the paper's.

    python -m benchmarks.paper_table musique-full --data DIR --limit 1000 --seeds 1 2 3 --out OUT
    python -m benchmarks.paper_table musique-answerable --data DIR --limit 20 --dev-limit 8

The rows build on each other: untrained; trained on the split train; its answers grounded; its
verdicts paired (Full); and trained on dev, where each example is played before it is learned from.
Dev is predicted once for the first three trained rows. Each row is stored in OUT as soon as it is
known; run again after an interruption, the command goes on with what is missing, be it in the
middle of a training or of predictions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.paper_table.rows import Treatments, say
from benchmarks.paper_table.table import mean_rows, table
from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.learning.peers import Stop
from flowtune_cli.registry import load_registry
from flowtune_cli.runs.atomic import read_json, write_json


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["musique-full", "musique-answerable"])
    parser.add_argument("--data", type=Path, required=True, help="the folder of official files")
    parser.add_argument("--limit", type=int, default=0, help="examples to train on; 0 is all")
    parser.add_argument("--dev-limit", type=int, default=0, help="examples of dev; 0 is all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/treatments"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    try:
        rows = mean_rows(_all_rows(given))
    except FlowtuneError as error:
        say(f"treatments: error: {error}")
        return error.exit_code
    except (KeyboardInterrupt, Stop):
        say("interrupted; the same command goes on")
        return 130
    if given.json:
        print(json.dumps(rows, indent=1))
    else:
        Console().print(table(given.task, rows))
    return 0


def _all_rows(given: argparse.Namespace) -> list[list[dict[str, Any]]]:
    """The rows of every seed.

    Raises:
        UsageError: the output folder holds rows that were made in another way.
    """
    about = {
        "task": given.task,
        "data": str(given.data.absolute()),
        "limit": given.limit,
        "dev_limit": given.dev_limit,
        "set": given.overrides,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "about.json"
    if file.exists() and read_json(file) != about:
        raise UsageError(f"{given.out} has rows of {read_json(file)}; say another --out")
    write_json(file, about)
    treatments = Treatments(
        load_registry(),
        given.task,
        given.data,
        given.limit,
        given.dev_limit,
        given.overrides,
        given.out,
    )
    return [list(treatments.rows(seed)) for seed in given.seeds]


if __name__ == "__main__":
    raise SystemExit(main())
