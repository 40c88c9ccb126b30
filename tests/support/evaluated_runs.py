"""A stored run whose checkpoints were evaluated on held-out examples."""

from __future__ import annotations

from pathlib import Path

from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.evaluations import Evaluation, Figure
from flowtune_cli.runs.store import Store
from support.random_batches import played, question_of

VALUES = (0.25, 0.75, None, 0.5)


def evaluation(number: int, value: float | None) -> Evaluation:
    """One after ``number`` batches of three episodes each; the first example failed."""
    figures = {"high": Figure(value, 9), "own.exact": Figure(0.125 * number)}
    return Evaluation(3 * number, number, 10, 1, "high", figures)


def evaluated_run(parent: Path, name: str = "run") -> RunDirectory:
    """Three batches, and an evaluation before each and after the last."""
    run = RunDirectory.create(parent, name, task="sums", model="none", settings={"settings": {}})
    with Store(run.store_path, question_of) as store:
        for number, (value, record) in enumerate(zip(VALUES, [*played(3), None], strict=True)):
            store.write_evaluation(evaluation(number, value))
            if record is not None:
                store.write_batch(record)
    return run
