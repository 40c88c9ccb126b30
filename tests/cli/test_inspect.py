"""``flowtune inspect``: what it opens, and what it says when it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.runs.directory import RunDirectory

Run = Callable[..., Any]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, run: Run) -> list[tuple[Path, bool]]:
    """What would be opened: the terminal is pretended, and the application not run."""
    found: list[tuple[Path, bool]] = []
    monkeypatch.setattr("flowtune_cli.cli.inspect._on_terminal", lambda: True)
    monkeypatch.setattr(
        "flowtune_cli.tui.app.InspectApp.run", lambda app: found.append((app.path, app.is_run))
    )
    return found


def make(parent: Path, name: str) -> Path:
    return RunDirectory.create(parent, name, task="hop-qa", model="m", settings={}).path


def test_without_a_terminal_it_points_at_the_report(run: Run) -> None:
    done = run("inspect")
    assert (done.code, done.out) == (2, "")
    assert "needs a terminal" in done.err
    assert "flowtune report" in done.err


def test_all_runs_by_default(run: Run, opened: list[tuple[Path, bool]], tmp_path: Path) -> None:
    make(tmp_path / "runs", "first")
    assert run("inspect").code == 0
    assert opened == [(Path("runs"), False)]


def test_a_run_by_name_or_path_and_a_directory(
    run: Run, opened: list[tuple[Path, bool]], tmp_path: Path
) -> None:
    make(tmp_path / "runs", "first")
    other = make(tmp_path / "elsewhere", "second")
    for argument in ("first", str(other), str(other.parent)):
        assert run("inspect", argument).code == 0
    assert run("inspect", "second", "--set", f"run.directory={other.parent}").code == 0
    assert opened == [
        (tmp_path / "runs/first", True),
        (other, True),
        (other.parent, False),
        (other, True),
    ]


def test_what_is_not_there(run: Run, opened: list[tuple[Path, bool]], tmp_path: Path) -> None:
    done = run("inspect")
    assert done.code == 2
    assert f"there are no runs in {tmp_path / 'runs'}." in done.err
    make(tmp_path / "runs", "first")
    done = run("inspect", "frist")
    assert done.code == 2
    assert "Did you mean 'first'?" in done.err
    (tmp_path / "empty").mkdir()
    done = run("inspect", "empty")
    assert done.code == 2
    assert "empty is not a run" in done.err
    assert opened == []
