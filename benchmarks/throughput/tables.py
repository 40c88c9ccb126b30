"""Shows what ``throughput.py`` found: the check on stderr, figures as tables or JSON on stdout."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.throughput.check import TOLERANCE, Report
from benchmarks.throughput.meter import PHASES, Figures


def show_check(report: Report) -> None:
    """Say what was compared, and what differed."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for what, count in report.counts.items():
        largest = report.largest.get(what)
        how = "equal" if largest is None else f"largest relative difference {largest:.1e}"
        console.print(f"  {count} {what}: {how}", markup=False)
    for text in report.ties:
        console.print(f"  tie (within {TOLERANCE:g}): {text}", markup=False)
    for text in report.errors:
        console.print(f"  DIFFERS: {text}", markup=False)


def show(result: Mapping[str, Any]) -> None:
    """Print a table for each mode."""
    console = Console()
    about = result["about"]
    for mode in ("predict", "train"):
        if mode not in result:
            continue
        title = (
            f"{mode}: {about['model']} in {about['dtype']}, {about['threads']} threads,"
            f" peak {about['peak_gflops']:.0f} GFLOP/s"
        )
        table = Table("", "flowtune", "flowtune, paired", "baseline", "ratio", title=title)
        columns = [result[mode][side] for side in ("flowtune", "paired", "plain")]
        for name, shown, compared in _rows(about["peak_gflops"]):
            texts = [shown(figures) if figures.examples else "" for figures in columns]
            ratio = ""
            if compared and columns[2].examples and compared(columns[2]):
                ratio = f"{compared(columns[1]) / compared(columns[2]):.2f}"
            table.add_row(name, *texts, ratio)
        console.print(table)


def examples_an_hour(figures: Figures) -> float:
    return 3600 * figures.examples / figures.seconds


def _rows(peak_gflops: float) -> list[tuple[str, Any, Any]]:
    """What is shown: its name, how, and the figure that the ratio is of."""
    rows: list[tuple[str, Any, Any]] = [
        ("examples an hour", lambda f: f"{examples_an_hour(f):.1f}", examples_an_hour),
        ("records", lambda f: str(f.examples), None),
        ("seconds", lambda f: f"{f.seconds:.1f}", lambda f: f.seconds),
        ("processor's seconds", lambda f: f"{f.cpu_seconds:.1f}", lambda f: f.cpu_seconds),
        ("rollouts, preferences", lambda f: f"{f.rollouts}, {f.preferences}", None),
    ]
    for phase in PHASES:
        rows.append((f"share of {phase}", _share(phase), None))
    return [
        *rows,
        ("forward passes", lambda f: f"{f.forwards}", lambda f: f.forwards),
        ("tokens computed", lambda f: f"{f.tokens}", lambda f: f.tokens),
        ("tokens needed", lambda f: f"{f.needed}", None),
        ("needed / computed", lambda f: f"{f.needed / f.tokens:.1%}", None),
        ("tokens generated", lambda f: f"{f.generated}", None),
        ("TFLOP", lambda f: f"{f.flops / 1e12:.2f}", lambda f: f.flops),
        ("share of peak", lambda f: f"{f.flops / f.seconds / 1e9 / peak_gflops:.1%}", None),
        ("peak memory, MB", lambda f: f"{f.peak_mb:.0f}", lambda f: f.peak_mb),
    ]


def _share(phase: str) -> Any:
    return lambda figures: f"{figures.phases[phase] / figures.seconds:.1%}"


def show_curve(name: str, mode: str, rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print seconds and tokens an example for each point."""
    if as_json:
        print(json.dumps(rows, indent=1, default=dataclasses.asdict))
        return
    heads = ("s / example", "tokens / example", "needed / example", "peak, MB")
    table = Table(name.replace("_", " "), *heads, title=f"{mode}, {name.replace('_', ' ')}")
    for row in rows:
        figures: Figures = row["figures"]
        per = (figures.seconds, figures.tokens, figures.needed)
        texts = [f"{value / figures.examples:.2f}" for value in per[:1]]
        texts += [f"{value / figures.examples:.0f}" for value in per[1:]]
        table.add_row(str(row["value"]), *texts, f"{figures.peak_mb:.0f}")
    Console().print(table)
