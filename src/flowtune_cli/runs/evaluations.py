"""Evaluations of a run's checkpoints on held-out examples: their rows, and which was the best."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

LOWER = "-"
"""Begins the name of a metric whose lowest value is the best."""


@dataclass(frozen=True)
class Figure:
    """A figure of an evaluation.

    Args:
        value: None where it is undefined.
        defined: how many examples it is the mean of; None for one that the task has computed.
    """

    value: float | None
    defined: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """The figures of one checkpoint.

    Args:
        episodes: trained on before it.
        batch: how many batches that were.
        examples: how many were played.
        failed: in how many of these the flow failed; no figure counts them.
        metric: the figure that says which checkpoint is the best, as ``training.evaluate.metric``
            names it: after a minus, the lowest value is the best.
        figures: by name, the rewards first.
    """

    episodes: int
    batch: int
    examples: int
    failed: int
    metric: str
    figures: Mapping[str, Figure]

    @property
    def metric_name(self) -> str:
        """The name of the metric's figure."""
        return self.metric.removeprefix(LOWER)

    @property
    def lower_is_better(self) -> bool:
        return self.metric.startswith(LOWER)

    @property
    def value(self) -> float | None:
        """That of the metric."""
        figure = self.figures.get(self.metric_name)
        return None if figure is None else figure.value

    @property
    def goodness(self) -> float | None:
        """The metric's value so that a higher one is better."""
        value = self.value
        return value if value is None or not self.lower_is_better else -value

    @property
    def counted(self) -> int:
        """How many examples the metric's value is of."""
        figure = self.figures.get(self.metric_name)
        if figure is None:
            return 0
        return self.examples - self.failed if figure.defined is None else figure.defined


def best_of(evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """The evaluation with the best value of its metric, of equal ones the earliest."""
    best: Evaluation | None = None
    for each in evaluations:
        if each.goodness is not None and (best is None or each.goodness > _goodness(best)):
            best = each
    return best


def without_a_better(evaluations: Sequence[Evaluation]) -> int:
    """How many of the latest evaluations in a row have not become the best one."""
    best = best_of(evaluations)
    return len(evaluations) if best is None else len(evaluations) - 1 - evaluations.index(best)


def evaluations_json(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """As JSON values; the best one says so."""
    best = best_of(evaluations)
    return [{**asdict(each), "best": each is best} for each in evaluations]


def _goodness(evaluation: Evaluation) -> float:
    assert evaluation.goodness is not None
    return evaluation.goodness


def evaluation_rows(evaluation: Evaluation) -> Iterator[tuple[str, dict[str, Any]]]:
    """Its rows, each with the name of the table."""
    key = {"episodes": evaluation.episodes, "batch": evaluation.batch}
    yield (
        "evaluations",
        key
        | {
            "examples": evaluation.examples,
            "failed": evaluation.failed,
            "metric": evaluation.metric,
        },
    )
    for number, (name, figure) in enumerate(evaluation.figures.items()):
        yield (
            "evaluation_figures",
            key
            | {"number": number, "name": name, "value": figure.value, "defined": figure.defined},
        )


def read_evaluations(connection: sqlite3.Connection) -> list[Evaluation]:
    """All that are stored, in the order of training."""
    figures: dict[int, dict[str, Figure]] = {}
    of_all = "SELECT * FROM evaluation_figures ORDER BY episodes, number"
    for row in connection.execute(of_all):
        figure = Figure(row["value"], row["defined"])
        figures.setdefault(row["episodes"], {})[row["name"]] = figure
    return [
        Evaluation(**dict(row), figures=figures.get(row["episodes"], {}))
        for row in connection.execute("SELECT * FROM evaluations ORDER BY episodes")
    ]
