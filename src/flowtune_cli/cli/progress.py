"""Progress on stderr: a bar on a terminal, else a plain line at least every 30 seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import typer

from .durations import duration
from .heartbeat import Heartbeat
from .verbosity import is_quiet

if TYPE_CHECKING:
    from rich.console import RenderableType

STOPPING = "stopping after the current step; press Ctrl-C again to stop at once"


class Progress(Protocol):
    """Shows the progress of a command, from ``__enter__`` to ``__exit__``."""

    def __enter__(self) -> Progress: ...

    def __exit__(self, *exception: Any) -> None: ...

    def show(self, done: int, text: str = "", *, line: bool = False) -> None:
        """Show ``done`` episodes. ``text`` stays until the next one; ``line``: print a line."""

    def doing(self, text: str) -> None:
        """From now on this is done, such as "learn"."""

    def stopping(self) -> None:
        """Confirm a stop request. May be called from a signal handler."""


def progress(done: int, total: int, calls: Callable[[], int] | None = None) -> Progress:
    """A bar if stderr is a terminal, else lines; nothing with ``--quiet``.

    Args:
        done: the number of episodes done before.
        calls: how many calls of nodes were answered so far: they move before an episode is done.
    """
    if is_quiet():
        return Silence()
    return Bar(done, total, calls) if sys.stderr.isatty() else Lines(done, total, calls)


class Clock:
    """Estimates the remaining time from the rate since the first episodes were done.

    Episodes run concurrently, so the first ones take as long as many; they are not counted.
    """

    def __init__(self, done: int, total: int) -> None:
        self.total = total
        self._before = done
        self._start = time.monotonic()
        self._first: tuple[int, float] | None = None

    def left(self, done: int) -> str:
        """Such as "12 min left"; empty as long as there is no estimate, and at the end."""
        if self._first is None and done > self._before:
            self._first = done, time.monotonic()
        if self._first is None or done <= self._first[0] or done >= self.total:
            return ""
        each = (time.monotonic() - self._first[1]) / (done - self._first[0])
        return f"{duration(each * (self.total - done))} left"

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._start


class Silence:
    """No progress at all."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *exception: Any) -> None:
        pass

    def show(self, done: int, text: str = "", *, line: bool = False) -> None:
        pass

    def doing(self, text: str) -> None:
        pass

    def stopping(self) -> None:
        pass


class Lines:
    """Plain lines, for a file or a pipe: where one is asked for, and at least every 30 seconds."""

    def __init__(self, done: int, total: int, calls: Callable[[], int] | None = None) -> None:
        self._clock = Clock(done, total)
        self._done = done
        self._calls = calls
        self._text = self._doing = ""
        self._stderr = sys.stderr  # a flow may put something else there for a while
        self.heartbeat = Heartbeat(self._beat)

    def __enter__(self) -> Lines:
        self.heartbeat.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.heartbeat.__exit__(*exception)

    def show(self, done: int, text: str = "", *, line: bool = False) -> None:
        self._done, self._text = done, text or self._text
        left = self._clock.left(done)
        if line:
            self._print(self._text, left)
            self.heartbeat.said()

    def doing(self, text: str) -> None:
        self._doing = text

    def _beat(self) -> None:
        so_far = f"{duration(self._clock.elapsed)} so far"
        calls = _calls_text(self._calls)
        self._print(calls, self._doing, self._text, so_far, self._clock.left(self._done))

    def _print(self, *parts: str) -> None:
        shown = [f"{self._done}/{self._clock.total} episodes", *parts]
        typer.echo("; ".join(part for part in shown if part), file=self._stderr)

    def stopping(self) -> None:
        # Not through sys.stderr, which the signal may have interrupted.
        with suppress(OSError):
            os.write(2, f"flowtune: {STOPPING}\n".encode())


class Bar:
    """A bar that is redrawn in place, with the text below it, for a terminal."""

    def __init__(self, done: int, total: int, calls: Callable[[], int] | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._clock = Clock(done, total)
        self._done = done
        self._calls = calls
        self._text = self._doing = ""
        self._stopping = False
        self._live = Live(
            console=Console(stderr=True),
            get_renderable=self._render,
            refresh_per_second=4,
            redirect_stdout=False,
        )

    def __enter__(self) -> Bar:
        self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._live.__exit__(*exception)

    def show(self, done: int, text: str = "", *, line: bool = False) -> None:
        self._done = done
        self._text = text or self._text

    def doing(self, text: str) -> None:
        self._doing = text

    def stopping(self) -> None:
        self._stopping = True  # a thread redraws the bar

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        row = Table.grid(padding=(0, 2))
        times = [
            _calls_text(self._calls),
            self._doing,
            f"{duration(self._clock.elapsed)} so far",
            self._clock.left(self._done),
        ]
        row.add_row(
            ProgressBar(self._clock.total, self._done, width=30),
            f"{self._done}/{self._clock.total} episodes",
            ", ".join(part for part in times if part),
        )
        below = [Text(STOPPING, "bold")] if self._stopping else []
        return Group(row, *([Text(self._text)] if self._text else []), *below)


def _calls_text(calls: Callable[[], int] | None) -> str:
    return "" if calls is None else f"{calls():,} calls"
