"""Signs of life: each process of a run counts in a shared store, so that a lost one is missed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from ..learning.peers import PeerFailed

BEAT_SECONDS = 1.0
SILENCE_SECONDS = 30.0
"""Who has not been heard of for so long is lost: killed, stopped, or cut off."""
SILENCE_WHEN_STOPPING_SECONDS = 10.0
"""The same when the launcher has asked to stop, as it does when a process has died. It kills what
is still there half a minute later."""


class SignsOfLife:
    """Those of this process, which a thread gives, and of the others.

    Args:
        store: what all share; this object's alone, as its thread waits for answers.
        rank: of this process.
        name: what a rank is called in errors.
        launcher: the process without which this one asks itself to stop, if any.

    Attributes:
        stopping: tells whether this process was asked to stop.
        lost: the ranks that were missed.
    """

    def __init__(
        self, store: Any, rank: int, name: Callable[[int], str], launcher: int | None
    ) -> None:
        self.stopping: Callable[[], bool] = lambda: False
        self.lost: set[int] = set()
        self._store = store
        self._rank = rank
        self._name = name
        self._launcher = launcher
        self._heard: dict[int, tuple[bytes, float]] = {}
        self._listened = 0.0
        self._ended = threading.Event()
        beat(store, rank)
        self._thread = threading.Thread(target=self._live, name="signs of life", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Give no more."""
        self._ended.set()
        self._thread.join(BEAT_SECONDS)

    def listen(self, store: Any, ranks: Collection[int], *, urgent: bool = False) -> None:
        """Listen to some processes; to be called every second or so while one waits for them.

        Args:
            store: the caller's own.
            urgent: it is known that one is lost.

        Raises:
            PeerFailed: one is lost.
        """
        limit = SILENCE_WHEN_STOPPING_SECONDS if urgent else self.silence_limit()
        now = time.monotonic()
        if now - self._listened > 5 * BEAT_SECONDS:
            # Silence counts from now, as this process itself may have been stopped meanwhile.
            self._heard.clear()
        self._listened = now
        for rank in ranks:
            sign = store.get(_key(rank))
            if sign != self._heard.get(rank, (b"", now))[0]:
                self._heard[rank] = sign, now
        # Others may be silent since they have ended because of it.
        first = min(ranks, key=lambda rank: self._heard[rank][1], default=self._rank)
        silence = now - self._heard[first][1] if ranks else 0.0
        if silence > limit:
            raise self.is_lost(first, f"nothing was heard of it for {silence:.0f} seconds")

    def silence_limit(self) -> float:
        """After how many seconds of silence someone is lost."""
        return SILENCE_WHEN_STOPPING_SECONDS if self.stopping() else SILENCE_SECONDS

    def is_lost(self, rank: int, why: str) -> PeerFailed:
        """The error of a process that is lost."""
        self.lost.add(rank)
        return PeerFailed(
            f"{self._name(rank)} is lost: {why}. It was killed (by the system, if memory ran out),"
            " or its machine or network is gone."
        )

    def _live(self) -> None:
        try:
            while not self._ended.wait(BEAT_SECONDS):
                beat(self._store, self._rank)
                if self._launcher is not None and os.getppid() != self._launcher:
                    self._launcher = None
                    signal.raise_signal(signal.SIGTERM)
        except RuntimeError:
            pass  # the store is gone, which the main thread will find, too


def beat(store: Any, rank: int) -> None:
    """Give one sign."""
    store.set(_key(rank), str(time.time()))


def _key(rank: int) -> str:
    return f"alive/{rank}"
