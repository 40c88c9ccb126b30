"""What two runs must have in common to be the same run, and how one is disturbed."""

from __future__ import annotations

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
