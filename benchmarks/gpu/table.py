"""Results as a page in Markdown: a section a stage, its figures as tables, its failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """The page."""
    lines = ["# Results", "", "| stage | state | seconds | failures |", "|---|---|---|---|"]
    for result in results:
        failures = len(result["failures"])
        lines.append(
            f"| {result['stage']} | {result['state']} | {result['seconds']:.0f} | {failures} |"
        )
    for result in results:
        lines += ["", f"## {result['stage']}", ""]
        figures = result["figures"]
        simple = {key: value for key, value in figures.items() if not isinstance(value, list)}
        if simple:
            lines += _table(["", ""], [[key, value] for key, value in simple.items()])
        for name, rows in figures.items():
            if isinstance(rows, list) and rows:
                columns = list(dict.fromkeys(key for row in rows for key in row))
                lines += ["", f"{name}:", ""]
                lines += _table(columns, [[row.get(key) for key in columns] for row in rows])
        if result["failures"]:
            lines += ["", "Failures, in full in results.json:", ""]
            for step, text in result["failures"].items():
                last = (text.strip().splitlines() or [""])[-1]
                lines.append(f"- {step}: {_cell(last[:300])}")
    return "\n".join(lines) + "\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return [
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(map(_cell, row)) + " |" for row in rows),
    ]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value).replace("|", "\\|").replace("\n", " ")
