"""What two runs must have in common to be the same run, and how one is disturbed."""

from __future__ import annotations

import re
import signal
import sqlite3
from pathlib import Path

import pytest

from flowtune_cli.engine.engine import ModelEngine


def learned(run: Path) -> dict[str, bytes]:
    """Every file of the newest checkpoint: adapters, optimizers, position and averages."""
    newest = max((run / "checkpoints").iterdir())
    return {
        str(file.relative_to(run)): file.read_bytes()
        for file in sorted(newest.rglob("*"))
        if file.is_file()
    }


def rows(run: Path) -> list[str]:
    """All rows of the store but the timings, as SQL."""
    connection = sqlite3.connect(run / "store.sqlite")
    try:
        lines = sorted(connection.iterdump())
    finally:
        connection.close()
    return [line for line in lines if not line.startswith('INSERT INTO "timings"')]


_NUMBER = re.compile(r"-?\d+\.\d+(?:[eE][-+]?\d+)?")


def assert_same_rows(one: Path, other: Path) -> None:
    """All rows of two runs' stores but the timings are the same, figures within rounding."""
    first, second = ([(_NUMBER.sub("#", row), row) for row in rows(run)] for run in (one, other))
    # By their texts, as a figure that is rounded otherwise may change the order.
    for (text, row), (same_text, same_row) in zip(sorted(first), sorted(second), strict=True):
        assert text == same_text
        numbers, same = ([float(n) for n in _NUMBER.findall(each)] for each in (row, same_row))
        assert numbers == pytest.approx(same, abs=1e-4, rel=1e-4), row


def press_ctrl_c(monkeypatch: pytest.MonkeyPatch, *calls: int, number: int = signal.SIGINT) -> None:
    """Send this process a signal before the engine's calls of these numbers, counted from 1."""
    answer = ModelEngine.answer
    count = 0

    def disturbed(self: ModelEngine, requests: list) -> list:
        nonlocal count
        count += 1
        if count in calls:
            signal.raise_signal(number)
        return answer(self, requests)

    monkeypatch.setattr(ModelEngine, "answer", disturbed)
