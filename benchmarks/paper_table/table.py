"""The table of treatments: means over seeds with their intervals, and what the paper reports."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

FIGURES = {
    "answer_f1": "answer_f1",
    "support_f1": "support_f1",
    "sufficiency": "sufficiency_accuracy",
    "answer+sufficiency": "group_answer_sufficiency_f1",
    "support+sufficiency": "group_support_sufficiency_f1",
}
"""What ``flowtune evaluate`` calls each figure of the table."""

_NAMES = ("answer_f1", "support_f1", "sufficiency")
Paper = dict[str, dict[str, tuple[float, ...]]]

# Section 3.2, tables of Answerable and Full, with Phi-3-medium.
PAPER: dict[str, Paper] = {
    "musique-full": {
        "untrained": {"dev": (0.073, 0.450, 0.625)},
        "+ train on train": {"train": (0.689, 0.887, 0.86), "dev": (0.579, 0.883, 0.874)},
        "+ grounded": {"dev": (0.604, 0.883, 0.874)},
        "+ pairwise": {"dev": (0.604, 0.883, 0.945)},
        "+ train on dev": {"dev": (0.740, 0.921, 0.957)},
    },
    "musique-answerable": {
        "untrained": {"train": (0.085, 0.492), "dev": (0.074, 0.437)},
        "+ train on train": {"train": (0.729, 0.904), "dev": (0.629, 0.887)},
        "+ grounded": {"dev": (0.650, 0.887)},
        "+ train on dev": {"dev": (0.761, 0.92)},
    },
}

# Student's t at 97.5 %, by degrees of freedom from 1.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

Rows = list[dict[str, Any]]


def mean_rows(of_seeds: Sequence[Sequence[Mapping[str, Any]]]) -> Rows:
    """The rows of all seeds in one: each figure's mean, its 95 % interval, and over how many.

    Over several seeds the interval is Student's, of the mean over seeds. With one seed, and for
    what is the same for every seed, it is that of the figure itself, over resampled records.
    """
    rows = []
    for same in zip(*of_seeds, strict=True):
        row: dict[str, Any] = {"row": same[0]["row"]}
        for split in ("train", "dev"):
            if split in same[0]:
                row[split] = {
                    name: _mean([each[split][name] for each in same]) for name in same[0][split]
                }
        rows.append(row)
    return rows


def _mean(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if all(figure == figures[0] for figure in figures):
        return {**figures[0], "seeds": len(figures)}
    values = [figure["value"] for figure in figures]
    mean, degrees = statistics.fmean(values), len(values) - 1
    half = _T[min(degrees, len(_T)) - 1] * statistics.stdev(values) / len(values) ** 0.5
    interval = [round(mean - half, 3), round(mean + half, 3)]
    return {"value": round(mean, 3), "interval": interval, "seeds": len(values)}


def paper(task: str, row: str, split: str, figure: str) -> float | None:
    """What the paper reports, where it does."""
    values = PAPER[task].get(row, {}).get(split, ())
    return dict(zip(_NAMES, values, strict=False)).get(figure)


def table(task: str, rows: Rows) -> Table:
    """A line for each row and figure, ours beside the paper's."""
    columns = ("row", "figure", "train, paper", "train, ours", "dev, paper", "dev, ours")
    shown = Table(*columns, title=f"{task}: the paper's rows, with the model that is set here")
    for row in rows:
        label = row["row"]
        for name in FIGURES:
            cells = []
            for split in ("train", "dev"):
                reported = paper(task, row["row"], split, name)
                cells.append("" if reported is None else f"{reported:.3f}")
                cells.append(_cell(row.get(split, {}).get(name)))
            if any(cells):
                shown.add_row(label, name, *cells)
                label = ""
    return shown


def _cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return ""
    interval = figure["interval"]
    more = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    return f"{figure['value']:.3f}{more}"
