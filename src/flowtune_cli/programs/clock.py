"""A time limit that stands still while an episode waits for its nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from ..flow.episode import Episode
from ..runtime.flow_run import FlowRun


class TimeLimit:
    """Counts the seconds in which none of an episode's calls waits, within a ``with`` block.

    How long nodes take depends on how many other episodes there are, which is no fault of a
    program.

    Args:
        seconds: 0 is no limit.
        expire: called once, when the time is up.

    Attributes:
        expired: the time is up.
    """

    def __init__(self, episode: Episode, seconds: float, expire: Callable[[], None]) -> None:
        self.expired = False
        self._run: FlowRun = getattr(episode.runner, "run")  # noqa: B009
        self._left = seconds
        self._expire = expire
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0

    def __enter__(self) -> TimeLimit:
        if self._left > 0:
            self._run.on_wait.append(self._wait)
            self._wait(self._run.waits_for_nodes)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._wait in self._run.on_wait:
            self._run.on_wait.remove(self._wait)
        self._wait(True)

    def _wait(self, for_nodes: bool) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._left -= loop.time() - self._since
            self._timer.cancel()
            self._timer = None
        if not for_nodes and not self.expired:
            self._since = loop.time()
            self._timer = loop.call_later(max(self._left, 0.0), self._time_out)

    def _time_out(self) -> None:
        self.expired = True
        self._expire()
