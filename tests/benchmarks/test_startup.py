"""The benchmark of start-up starts both processes, and notices one that fails."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import startup


def test_both_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter([0.3, 0.1, 0.9, 0.3, 0.4, 0.1])
    started: list[str] = []
    monkeypatch.setattr(startup, "cpu_seconds", lambda code: started.append(code) or next(took))
    found = startup.medians(startup.HELP, startup.FLOOR, 3)
    assert found == (0.4, 0.1, pytest.approx(3.0), pytest.approx(0.3))
    assert started == [startup.HELP, startup.FLOOR] * 3


def test_a_process_that_fails_is_an_error() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        startup.cpu_seconds("raise SystemExit(1)")


def test_the_first_batch_is_trained(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWTUNE_PLUGINS", "toyqa")
    startup.cpu_seconds(startup.train(tiny_model_dir, tmp_path / "runs"))
    info = json.loads((tmp_path / "runs/toyqa-001/run.json").read_text())
    assert (info["state"], info["episodes"]) == ("finished", 1)


def test_help_runs() -> None:
    startup.cpu_seconds(startup.HELP)
