"""Training takes no more work than what is stored, and the benchmark would tell if it did."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from benchmarks import work

STORED = json.loads(work.STORED.read_text())


@pytest.fixture(scope="module")
def measured() -> work.Work:
    return work.measure()


def test_work_has_not_grown(measured: work.Work) -> None:
    assert work.grown(STORED, measured) == []


def test_the_same_twice(measured: work.Work) -> None:
    assert work.measure() == measured


def test_there_is_something_to_do(measured: work.Work) -> None:
    assert measured["data"]["preferences"] > 8
    assert measured["data"]["targets"] == work.BATCHES * work.BATCH_SIZE
    assert all(figures["flops"] > 0 for part, figures in measured.items() if part != "data")


def test_growth_is_told_beyond_five_percent() -> None:
    now = copy.deepcopy(STORED)
    now["learn"]["tokens"] = int(STORED["learn"]["tokens"] * 1.049)
    assert work.grown(STORED, now) == []
    now["learn"]["tokens"] = int(STORED["learn"]["tokens"] * 1.06)
    (told,) = work.grown(STORED, now)
    assert told.startswith("learn, tokens")


def test_less_data_is_no_less_work() -> None:
    now = copy.deepcopy(STORED)
    now["data"]["preferences"] -= 1
    (told,) = work.grown(STORED, now)
    assert "not the same training" in told


def test_update_stores_and_growth_fails(
    measured: work.Work,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(work, "STORED", tmp_path / "work.json")
    monkeypatch.setattr(work, "measure", lambda: measured)
    assert work.main(["--update"]) == 0
    assert work.main([]) == 0
    less = copy.deepcopy(measured)
    less["learn"]["forwards"] //= 2
    work.STORED.write_text(json.dumps(less))
    assert work.main([]) == 1
    assert "learn, forwards" in capsys.readouterr().err
