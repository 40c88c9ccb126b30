"""Lines for a pipe, a bar for a terminal, and how long it will take."""

from __future__ import annotations

import io
import sys

import pytest

from flowtune_cli.cli import progress as module
from flowtune_cli.cli.progress import STOPPING, Bar, Lines, duration, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_when_there_is_something_to_say(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with progress(10, 20) as shown:
        assert isinstance(shown, Lines)
        now = 108.0
        shown.show(11, line=True)
        now = 112.0
        shown.show(12, "f1 0.5", line=True)
        shown.show(20, line=True)
        shown.stopping()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "11/20 episodes",
        "12/20 episodes; f1 0.5; 32 s left",
        "20/20 episodes; f1 0.5",
        f"flowtune: {STOPPING}",
    ]


def test_a_bar_says_the_same_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress(0, 4) as shown:
        assert isinstance(shown, Bar)
        shown.show(3, "f1 [0.5]", line=True)
        shown.stopping()
    written = terminal.getvalue()
    assert "3/4 episodes" in written
    assert "f1 [0.5]" in written
    assert STOPPING in written


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (720, "12 min"), (12_060, "3 h 21 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
