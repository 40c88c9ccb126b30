"""What training says: figures that tell what happened, and commands that can be copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowtune_cli import Example, Task
from flowtune_cli.cli.training_text import batch_text, next_commands
from flowtune_cli.flow.deviation import Deviation, Outcome, Trace
from flowtune_cli.flow.episode import Episode, Failure
from flowtune_cli.runs.batch import BatchRecord, MetricRecord


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
