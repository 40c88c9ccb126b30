"""The benchmark of busy machines trains by turns, and notices trainings that differ."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import busy
from benchmarks.busy import Took


def test_trainings_are_measured_alone_and_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {**busy.SHAPE, "hidden_size": 36, "intermediate_size": 16}
    monkeypatch.setattr(busy, "SHAPE", shape)
    environ = {"ours": {**os.environ, "OMP_NUM_THREADS": "1"}}
    found = busy.measure(tmp_path, environ, rounds=1, busy=0)
    assert list(found) == ["ours"]
    (alone,), (beside,) = found["ours"]["alone"], found["ours"]["beside"]
    assert alone.work == beside.work
    assert alone.work["tokens"] > 1000
    assert min(alone.seconds, alone.cpu_seconds) > 0


def test_environments_differ_in_what_the_command_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    before = dict(os.environ)
    spinning, briefly = busy.environments().values()
    assert "OMP_WAIT_POLICY" not in spinning
    assert set(briefly.items()) - set(spinning.items()) == {("GOMP_SPINCOUNT", "2000")}
    assert dict(os.environ) == before


def tooks(*seconds: float, tokens: int = 5) -> list[Took]:
    return [Took(each, each, {"tokens": tokens}) for each in seconds]


def test_ratios_are_of_medians() -> None:
    found = {
        "one": {"alone": tooks(1, 2, 9), "beside": tooks(12, 12, 1)},
        "other": {"alone": tooks(2.1, 2.1, 2), "beside": tooks(4.2, 9, 1)},
    }
    _, one, other = busy.report(found).splitlines()
    assert one.split()[1:] == ["2.00", "+0.0%", "12.00", "6.00"]
    assert other.split()[1:] == ["2.10", "+5.0%", "4.20", "2.00"]


def test_trainings_that_differ_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"one": {"alone": tooks(1), "beside": tooks(1, tokens=6)}}
    monkeypatch.setattr(busy, "measure", lambda *_: found)
    assert busy.main([]) == 1
    assert "different work" in capsys.readouterr().err


def test_a_training_that_fails_is_an_error(tmp_path: Path) -> None:
    with (
        busy.training(tmp_path / "no-model", tmp_path, dict(os.environ)) as train,
        pytest.raises(RuntimeError, match="failed"),
    ):
        train()
