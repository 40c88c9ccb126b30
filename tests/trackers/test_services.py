"""Trackio and Weights & Biases, each with a stand-in for its package: what is asked of it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from flowtune_cli.trackers.metrics import batch_metrics
from flowtune_cli.trackers.tracking import Trackers
from report.stored_runs import sums_run
from support.random_batches import played

SETTINGS = {"training": {"seed": 7}}


class Service(ModuleType):
    """A module with an ``init`` that gives a run; it remembers what it was told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.runs: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **given: Any) -> Any:
        self.runs.append(given)
        return SimpleNamespace(log=self._log, finish=self._finish)

    def Settings(self, **given: Any) -> dict[str, Any]:
        return given

    def _log(self, figures: dict[str, float], step: int) -> None:
        self.logged.append((step, figures))

    def _finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_run_and_its_resume_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    service = Service(name)
    monkeypatch.setitem(sys.modules, name, service)
    run = sums_run(tmp_path, 1)
    records = list(played(3))
    for numbers in ((0, 1), (1, 2)):
        with Trackers([name], run, SETTINGS) as trackers:
            for number in numbers:
                trackers.log(records[number])
    assert service.logged == [
        (3 * (n + 1), batch_metrics(record)) for n, record in enumerate(records)
    ]
    assert service.finished == 2
    first, second = service.runs
    assert first == second
    assert first["project"] == "flowtune-sums"
    assert first["resume"] == "allow"
    assert first["config"] == SETTINGS
    unique = first["id" if name == "wandb" else "name"]
    assert unique.startswith("run-20")
    if name == "wandb":
        assert first["name"] == "run"
        assert first["dir"] == str(run.path)
        assert first["settings"]["login_timeout"] < 60
        assert first["settings"]["save_code"] is False
        assert first["settings"]["disable_git"] is True
        assert first["settings"]["console"] == "off"
