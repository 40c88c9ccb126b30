"""Evaluations in the store, and which was the best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flowtune_cli.runs.evaluations import best_of, evaluations_json, without_a_better
from flowtune_cli.runs.reader import RunReader
from support.evaluated_runs import VALUES, evaluated_run, evaluation


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    run = evaluated_run(tmp_path)
    with RunReader(run.store_path) as reader:
        found = reader.evaluations()
    assert found == [evaluation(number, value) for number, value in enumerate(VALUES)]
    assert [list(each.figures) for each in found] == [["high", "own.exact"]] * 4
    assert [each["best"] for each in evaluations_json(found)] == [False, True, False, False]


def test_after_a_minus_the_lowest_is_the_best() -> None:
    found = [replace(evaluation(n, v), metric="-high") for n, v in enumerate([0.5, None, 0.2, 0.2])]
    assert best_of(found) is found[2]
    assert without_a_better(found) == 1
    assert (found[2].value, found[2].metric_name) == (0.2, "high")


@pytest.mark.parametrize(
    ("values", "best", "since"),
    [
        ([], None, 0),
        ([None], None, 1),
        ([None, None], None, 2),
        ([0.5], 0, 0),
        ([0.5, 0.5, 0.5], 0, 2),
        ([0.1, 0.5, None, 0.4], 1, 2),
        ([None, -1.0, -2.0], 1, 1),
        ([0.1, 0.2, 0.3], 2, 0),
    ],
)
def test_the_best_is_the_first_of_the_highest(
    values: list[float | None], best: int | None, since: int
) -> None:
    found = [evaluation(number, value) for number, value in enumerate(values)]
    assert best_of(found) is (None if best is None else found[best])
    assert without_a_better(found) == since
