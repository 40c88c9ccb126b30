"""TensorBoard: what is read back from the event files is what was logged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flowtune_cli.trackers.metrics import batch_metrics
from flowtune_cli.trackers.tracking import Trackers
from report.stored_runs import sums_run
from support.event_files import scalars
from support.random_batches import played


def test_every_figure_with_its_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = sums_run(tmp_path, 1)
    records = list(played(5))
    for numbers in (range(3), range(1, 5)):  # stopped after the third, resumed after the first
        with Trackers(["tensorboard"], run, {}) as trackers:
            for number in numbers:
                trackers.log(records[number])
    found = scalars(run.path)
    for name in batch_metrics(records[0]).keys() | batch_metrics(records[1]).keys():
        expected = [
            (record.position + 3, pytest.approx(batch_metrics(record)[name]))
            for record in records
            if name in batch_metrics(record)
        ]
        assert found[name] == expected, name
    assert found.keys() == {name for record in records for name in batch_metrics(record)}
    assert capsys.readouterr().out == ""


def test_what_was_logged_is_there_after_a_kill(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from flowtune_cli.trackers.tensorboard import TensorBoard
from flowtune_cli.trackers.tracker import TrackedRun
tracker = TensorBoard(TrackedRun("run", "run-1", Path(sys.argv[1]), "task", {}))
tracker.log(3, {"reward": 0.5})
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 9
    assert scalars(tmp_path) == {"reward": [(3, 0.5)]}
