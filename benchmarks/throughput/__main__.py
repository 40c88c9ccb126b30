"""How much faster than a plain baseline? Examples an hour of both, on the same records.

    python -m benchmarks.throughput --task musique-full --data DIRECTORY --records 16
    python -m benchmarks.throughput --task toyqa --records 16 --curve in_flight

The baseline (``plain.py``) does the same work one prompt at a time. First both are
checked to make the same outputs, preferences and gradients in float32. Then they take turns, a
mini-batch of records each, so that the machine's moods hit both; before each mini-batch the
baseline gets flowtune's adapters and optimizers. The ratio is taken over the records that both ran.

On a machine that other processes use, the processor's seconds tell more than those of the clock.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.throughput import check, curves, tables
from benchmarks.throughput.compare import Process, compare
from benchmarks.throughput.records import Setup

# Predicting comes first, as a process never forgets how much memory it once held.
MODES = ("predict", "train")
CURVES = ("in_flight", "alternatives", "hops", "documents")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="musique-full")
    parser.add_argument("--data", type=Path, help="where the task's records are")
    parser.add_argument("--records", type=int, default=16)
    parser.add_argument(
        "--baseline-records", type=int, help="the baseline runs this many of them; all if not given"
    )
    parser.add_argument("--check-records", type=int, default=1)
    parser.add_argument("--skip-check", action="store_true")
    parser.add_argument("--only", choices=MODES)
    parser.add_argument("--curve", choices=CURVES)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    setup = Setup(arguments.task, arguments.data, arguments.records, tuple(arguments.overrides))
    modes = [arguments.only] if arguments.only else MODES
    if arguments.curve:
        rows = curves.curve(arguments.curve, setup, modes[-1], Process, say)
        tables.show_curve(arguments.curve, modes[-1], rows, as_json=arguments.json)
        return 0
    result: dict[str, Any] = {}
    if not arguments.skip_check:
        say("checking that both sides make the same outputs, preferences and gradients")
        with Process() as process:
            report = process.run(
                check.check, dataclasses.replace(setup, records=arguments.check_records)
            )
        tables.show_check(report)
        if report.errors:
            return 1
        result["check"] = dataclasses.asdict(report)
    count = arguments.records if arguments.baseline_records is None else arguments.baseline_records
    result |= compare(setup, modes, count, say)
    if arguments.json:
        print(json.dumps(result, indent=1, default=dataclasses.asdict))
    else:
        tables.show(result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
