"""Says something whenever nothing was said for 30 seconds, from a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

SECONDS = 30.0
"""After which who looks at a log wonders whether anything still goes on."""


class Heartbeat:
    """From ``__enter__`` to ``__exit__``.

    Args:
        beat: says something. It is called from a thread, beside whatever is done.
    """

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.said()

    def __enter__(self) -> Heartbeat:
        self.said()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def said(self) -> None:
        """Something was said just now."""
        self._last = time.monotonic()

    def tick(self) -> None:
        """Beat if it is time."""
        if self._left() <= 0:
            self.said()
            self._beat()

    def _left(self) -> float:
        return self._last + SECONDS - time.monotonic()

    def _run(self) -> None:
        # Where nobody reads any more, there is nobody to be told.
        with suppress(OSError, ValueError):
            while not self._ended.wait(max(self._left(), 0)):
                self.tick()
