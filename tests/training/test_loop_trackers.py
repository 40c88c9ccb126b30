"""Training with trackers: the same run, and no point twice after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowtune_cli.config.settings import ModelSettings, RunSettings, Settings
from support.event_files import scalars
from support.tiny_training import Run, selected


def tracked(run: Run, *names: str) -> Run:
    run.settings = Settings.model_validate(
        {**run.settings.model_dump(), "run": RunSettings(trackers=list(names)).model_dump()}
    )
    return run


def test_a_killed_run_goes_on_without_doubled_points(
    tiny_settings: ModelSettings, tmp_path: Path
) -> None:
    run = tracked(Run(tiny_settings, tmp_path, count=8), "tensorboard")

    class Killed(Exception):
        pass

    def kill(report: object) -> None:
        if selected(run, "SELECT count(*) FROM batches") == [(3,)]:
            raise Killed

    with pytest.raises(Killed):
        run.train(on_report=kill)
    assert [step for step, _ in scalars(run.directory.path)["reward/end/overall"]] == [2, 4, 6]
    run.train()
    stored = selected(
        run, "SELECT 2 * batch + 2, overall FROM metrics WHERE name = 'end' ORDER BY batch"
    )
    assert scalars(run.directory.path)["reward/end/overall"] == [
        (step, pytest.approx(value)) for step, value in stored
    ]
    assert [step for step, _ in stored] == [2, 4, 6, 8]


def test_a_tracker_that_fails_changes_nothing(
    tiny_settings: ModelSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = Run(tiny_settings, tmp_path, "plain", count=4)
    plain.train()
    failing = tracked(Run(tiny_settings, tmp_path, "failing", count=4), "nothing-of-this-name")
    failing.train()
    for table in ("steps", "updates", "metrics", "preferences"):
        assert selected(plain, f"SELECT * FROM {table}") == selected(
            failing, f"SELECT * FROM {table}"
        )
    assert capsys.readouterr().err.count("is off, the run continues") == 1
