"""What a command does before there are episodes to count: said when it begins, and while it lasts.

On a pipe a line says at least every 30 seconds that it goes on; with ``--verbose``, another one
how long it took.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from .durations import duration
from .heartbeat import Heartbeat
from .output import detail, note
from .verbosity import is_quiet


class Phase:
    """What is done now.

    Args:
        text: such as "loading a model".
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._start = time.monotonic()
        # Where libraries are silenced, sys.stderr is something else for a while.
        self._stderr = sys.stderr

    def now(self, text: str) -> None:
        """Say that something else is done from now on."""
        self.end()
        note(text)
        self._text, self._start = text, time.monotonic()

    def still(self) -> None:
        """Say that it is still done."""
        if not is_quiet():
            so_far = duration(time.monotonic() - self._start)
            typer.echo(f"flowtune: note: still {self._text}, {so_far} so far", file=self._stderr)

    def end(self) -> None:
        """Say how long it took, to one who wants to know."""
        detail(f"{self._text} took {time.monotonic() - self._start:.1f} s")


@contextmanager
def phase(text: str, *, silent: bool = False) -> Iterator[Phase]:
    """Within, this is done.

    Args:
        silent: it is nearly always done at once, so that its beginning need not be said.
    """
    if not silent:
        note(text)
    current = Phase(text)
    if sys.stderr.isatty():
        yield current
    else:
        with Heartbeat(current.still):
            yield current
    current.end()
