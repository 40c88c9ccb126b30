"""What training says: figures that tell what happened, and commands that can be copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowtune_cli import Example, Task
from flowtune_cli.cli.training_text import (
    batch_text,
    best_of_fewer,
    best_text,
    early_end_text,
    evaluation_text,
    next_commands,
)
from flowtune_cli.flow.deviation import Deviation, Outcome, Trace
from flowtune_cli.flow.episode import Episode, Failure
from flowtune_cli.runs.batch import BatchRecord, MetricRecord
from flowtune_cli.runs.evaluations import Evaluation, Figure
from flowtune_cli.training.evaluation import EvaluationReport
from support.evaluated_runs import VALUES, evaluation


class Hop(Task):
    name = "hop"
    nodes = ()
    splits = ("train", "dev")

    def examples(self, source, split):
        return []

    async def run(self, episode, example):
        return {}


@pytest.mark.parametrize(
    ("data", "split", "played", "predicted"),
    [
        (None, "train", "", "--split dev --out a-dev.jsonl"),
        ("folder", "train", "--data folder ", "--data folder --split dev --out a-dev.jsonl"),
        ("t.jsonl", "train", "--data t.jsonl ", "--data FILE --split dev --out a-dev.jsonl"),
        (None, "dev", "--split dev ", "--split train --out a-train.jsonl"),
    ],
)
def test_commands(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: str | None,
    split: str,
    played: str,
    predicted: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    assert next_commands(Hop(), "runs/a", {"path": data, "split": split}) == [
        f"flowtune play hop --run runs/a {played}--deviate",
        f"flowtune predict hop --run runs/a {predicted}",
    ]


def test_figures_tell_failures_and_what_is_undefined() -> None:
    example = Example("x")
    failed, good = Episode(example, {}), Episode(example, {})
    failed.failure = Failure("E", "Traceback")
    trace = Trace(example, good, [Deviation(0, "n", 1, failed, Outcome.FAILED)])
    record = BatchRecord(
        batch=0,
        traces=[trace],
        position=0,
        adapter_versions={},
        metrics={"f1": MetricRecord(0.5, 0.25, 3, 0), "em": MetricRecord(None, None, 0, 3)},
        checkpoint=True,
    )
    assert batch_text(record) == (
        "f1 0.250 (window 0.500), em undefined (window undefined), 0 preferences,"
        " 1 of 2 episodes and rollouts failed, checkpoint"
    )
    assert batch_text(None) == ""


def test_an_evaluation_in_a_line() -> None:
    assert evaluation_text(EvaluationReport(4, 3, 10)) == "held out: 3/10 examples"
    found = evaluation(1, 0.75)
    failure = "e1", Failure("ValueError: no\nsuch", "...")
    assert evaluation_text(EvaluationReport(3, 10, 10, found, True, failure)) == (
        "held out: high 0.750, own.exact 0.125; 1 of 10 examples failed, the first is 'e1':"
        " ValueError: no; the best high so far"
    )
    many = Evaluation(0, 0, 1, 0, "f0", {f"f{n}": Figure(float(n)) for n in range(8)})
    text = evaluation_text(EvaluationReport(0, 1, 1, many))
    assert text.endswith("f5 5.000 and 2 more")


def test_the_best_and_the_end_of_patience() -> None:
    found = [evaluation(number, value) for number, value in enumerate(VALUES)]
    assert best_text(found, "a") == (
        "the best of 4 evaluations is high 0.750, after 3 episodes: a@best"
    )
    assert best_text(found[:1], "a").endswith("high 0.250, untrained: a@best")
    assert best_text([], "a") == best_text([found[2]], "a") == ""
    assert early_end_text(found) == (
        "ended early: high was 0.750 after 3 episodes, and no better in the 2 evaluations since"
        " (training.evaluate.patience)"
    )
    assert "none of 1 evaluations has a figure" in early_end_text([found[2]])


def test_a_best_figure_of_fewer_examples_is_told() -> None:
    def made(number: int, value: float | None, defined: int | None, failed: int) -> Evaluation:
        return Evaluation(number, number, 10, failed, "high", {"high": Figure(value, defined)})

    assert best_of_fewer([]) == ""
    assert best_of_fewer([made(0, 0.5, 9, 1), made(4, 0.7, 9, 1)]) == ""
    assert best_of_fewer([made(0, 0.5, 9, 1), made(4, 0.4, 2, 8)]) == ""
    expected = "the best high is of 2 of 10 examples, as the flow failed or it is undefined for"
    for defined in (2, None):  # a reward's mean, and a figure of the task's own
        found = best_of_fewer([made(0, 0.5, 9, 1), made(4, 1.0, defined, 8)])
        assert found.startswith(expected)
        assert "in another evaluation it is of 9." in found
