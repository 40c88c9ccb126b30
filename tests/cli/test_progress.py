"""Lines for a pipe, a bar for a terminal, and how long it will take."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from flowtune_cli.cli import heartbeat, verbosity
from flowtune_cli.cli import progress as module
from flowtune_cli.cli.durations import age, duration
from flowtune_cli.cli.phase import phase
from flowtune_cli.cli.progress import STOPPING, Bar, Lines, Silence, progress
from support.installed_plugins import Site


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


def test_a_line_comes_every_30_seconds_before_anything_is_done(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, calls = 100.0, 0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with progress(0, 20, lambda: calls) as shown:
        assert isinstance(shown, Lines)
        shown.doing("play and deviate")
        for now in (101.0, 129.9, 130.0, 131.0, 159.9, 160.0):  # noqa: B007
            calls += 1000
            shown.heartbeat.tick()
        now = 180.0
        shown.show(1, "f1 0.5", line=True)  # from then on it counts
        for now in (190.0, 209.9, 210.0):  # noqa: B007
            shown.heartbeat.tick()
    assert capfd.readouterr().err.splitlines() == [
        "0/20 episodes; 3,000 calls; play and deviate; 30 s so far",
        "0/20 episodes; 6,000 calls; play and deviate; 60 s so far",
        "1/20 episodes; f1 0.5",
        "1/20 episodes; 6,000 calls; play and deviate; f1 0.5; 2 min so far",
    ]


def test_it_comes_from_a_thread(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SECONDS", 0.05)
    counted = threading.Event()

    def calls() -> int:
        counted.set()
        return 7

    with progress(0, 20, calls):
        assert counted.wait(60)
    assert "0/20 episodes; 7 calls; " in capfd.readouterr().err
    before = threading.active_count()
    with progress(0, 20, calls):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_nobody_reads_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "SECONDS", 0.0)
    closed, tried = io.StringIO(), threading.Event()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)

    def beat() -> None:
        tried.set()
        print("anything", file=sys.stderr)

    with heartbeat.Heartbeat(beat):  # an exception in its thread would fail this test
        assert tried.wait(60)


def test_phases_say_that_they_go_on_even_where_libraries_are_silenced(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SECONDS", 0.05)
    with phase("loading a model") as loading:
        with contextlib.redirect_stderr(io.StringIO()):
            time.sleep(0.5)
        loading.now("proving it")
    with phase("evaluating", silent=True):
        pass
    said = capfd.readouterr().err.splitlines()
    assert said[:2] == [
        "flowtune: note: loading a model",
        "flowtune: note: still loading a model, 0 s so far",
    ]
    assert said[-1] == "flowtune: note: proving it"


def test_nothing_is_said_of_progress_when_quiet(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SECONDS", 0.05)
    monkeypatch.setattr(verbosity, "_level", verbosity._QUIET)
    with progress(0, 20) as shown, phase("loading"):
        shown.show(20, "done", line=True)
        time.sleep(0.3)
        shown.stopping()
    assert isinstance(shown, Silence)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59, "59 s"), (100, "1 min"), (7300, "2 h"), (90_000, "1 day"), (9e5, "10 days")],
)
def test_ages(seconds: float, said: str) -> None:
    assert age(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (720, "12 min"), (12_060, "3 h 21 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_command_says_that_it_goes_on(
    letters: Site, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it loads, plays and learns, whatever it does meanwhile; and what it counts moves."""
    monkeypatch.setattr(heartbeat, "SECONDS", 0.005)
    err = run("train", "letters", "--limit", "4").err
    assert "flowtune: note: still loading " in err
    found = re.findall(r"(\d)/4 episodes; ([\d,]+) calls; ([a-z ]+); ", err)
    assert {doing for _, _, doing in found} & {"play and deviate", "learn", "check the flow"}
    counts = [int(calls.replace(",", "")) for _, calls, _ in found]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0] >= 0
