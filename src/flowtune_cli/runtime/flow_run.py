"""One run of a flow on the event loop: its tasks, and what ends it before its time."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import types
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from typing import Any

from .event_loop import NO_LIMITS, OWN_TASKS, EpisodeLimits, FlowLoop, running_loop

GRACE_SECONDS = 5.0
"""How long a flow that is ended may go on, say to close a connection; then it is left behind."""


class FlowLimit(Exception):
    """An episode had no end within its limit."""


class Ended(asyncio.CancelledError):
    """Raised where a flow calls a node although nothing of it is needed any more."""


class FlowRun:
    """Runs a flow in the task of the caller, and keeps the tasks that the flow makes.

    Attributes:
        tasks: what the flow made and has not ended.
        ended: the flow is over, or what it does now is not needed any more.
        failure: why it was ended, where that is a failure.
        loop: where it runs; None before.
        context: that of the flow: a task that is made in a copy of it is one of the flow's.
        on_wait: called with True when the first call waits for a node, and with False when none
            waits any more.
    """

    def __init__(self, limits: EpisodeLimits = NO_LIMITS) -> None:
        self.limits = limits
        self.tasks: set[asyncio.Task[Any]] = set()
        self.ended = False
        self.abandoned = False
        self.failure: Exception | None = None
        self.loop: FlowLoop | None = None
        self.context = contextvars.Context()
        self.on_wait: list[Callable[[bool], None]] = []
        self._main: asyncio.Task[Any] | None = None
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._cancelled = 0
        self._timers: list[asyncio.TimerHandle] = []
        self._left = limits.episode_timeout
        self._waiting_calls = 0
        self._since = 0.0

    @property
    def alone(self) -> bool:
        """Whether the flow has no other task than the one that runs now."""
        tasks = [task for task in self.tasks if not task.done()]
        return asyncio.current_task() is self._main and not tasks

    async def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The flow's result; None if it was ended, whatever it raises then.

        What the flow leaves running is cancelled.
        """
        loop = self.loop = running_loop()
        self._main, self._coroutine = asyncio.current_task(), coroutine
        token = OWN_TASKS.set(self.tasks)
        self.context = contextvars.copy_context()
        self._start_clock()
        was_ended = False
        try:
            result = await _driven(self, coroutine)
            was_ended = self.ended
        except BaseException as error:
            if not self.ended or loop.closing or not _harmless(error):
                raise
            was_ended = True
        finally:
            OWN_TASKS.reset(token)
            self._end()
        await self._end_tasks()
        return None if was_ended else result

    def end(self, failure: Exception | None = None) -> None:
        """End the flow: all its tasks are cancelled, but the one that calls this.

        That one raises ``Ended``.
        """
        if self.ended:
            return
        self.ended, self.failure = True, failure
        running = None
        with suppress(RuntimeError):
            running = asyncio.current_task()
        for task in list(self.tasks):
            if task is not running:
                task.cancel()
        if self._main is not running:
            self._cancel_main()
        self._timers.append(running_loop().call_later(GRACE_SECONDS, self._abandon))

    def begin_call(self, made: int) -> None:
        """Count a call before it is made; ``made`` is how many were made before.

        Raises:
            Ended: the flow is over, or makes too many calls.
        """
        if self.ended:
            raise Ended
        most = self.limits.max_steps
        if most and made >= most:
            self.end(
                FlowLimit(
                    f"the flow made more than training.max_steps = {most} node calls: does it end?"
                )
            )
            raise Ended
        if not self._waiting_calls:
            self._stop_clock()
            self._tell(True)
        self._waiting_calls += 1

    def end_call(self) -> None:
        """A call has its answer, or was cancelled."""
        self._waiting_calls -= 1
        if not self._waiting_calls and not self.ended:
            self._start_clock()
            self._tell(False)

    @property
    def waits_for_nodes(self) -> bool:
        """Whether a call waits for a node."""
        return self._waiting_calls > 0

    def _tell(self, waits: bool) -> None:
        for each in list(self.on_wait):
            each(waits)

    # What is left of its time, while no call waits for a node

    def _start_clock(self) -> None:
        if self.limits.episode_timeout:
            loop = running_loop()
            self._since = loop.time()
            self._timers.append(loop.call_later(max(self._left, 0.0), self._time_out))

    def _stop_clock(self) -> None:
        if self.limits.episode_timeout:
            self._left -= running_loop().time() - self._since
            self._cancel_timers()

    def _time_out(self) -> None:
        self.end(
            FlowLimit(
                "the flow waited longer than training.episode_timeout ="
                f" {self.limits.episode_timeout:g} seconds for other things than its nodes"
                f"{_place(self._coroutine)}"
            )
        )

    # Ends

    def _cancel_main(self) -> None:
        assert self._main is not None
        self._cancelled += 1
        self._main.cancel()

    def _abandon(self) -> None:
        self.abandoned = True
        self._cancel_main()

    def _end(self) -> None:
        self.ended = True
        self._cancel_timers()
        for _ in range(self._cancelled):
            if sys.version_info >= (3, 11) and self._main is not None:  # which counts them
                self._main.uncancel()

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    async def _end_tasks(self) -> None:
        tasks = [task for task in self.tasks if not task.done()]
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        ended, _ = await asyncio.wait(tasks, timeout=GRACE_SECONDS)
        for task in ended:
            if not task.cancelled():
                task.exception()  # nobody else asks for it


@types.coroutine
def _driven(run: FlowRun, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Await a flow, as long as it is not left behind."""
    step = partial(coroutine.send, None)
    while True:
        try:
            awaited = step()
        except StopIteration as stop:
            return stop.value
        try:
            answer = yield awaited
        except BaseException as error:
            if run.abandoned:
                with suppress(BaseException):
                    coroutine.close()
                return None
            step = partial(coroutine.throw, error)
        else:
            step = partial(coroutine.send, answer)


def _harmless(error: BaseException) -> bool:
    """Whether a flow that was ended may raise it: not a key that a person has pressed."""
    return not isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit))


def _place(coroutine: Any) -> str:
    """Where a flow waits, for a message: the innermost line that is not asyncio's own."""
    place = ""
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        if not frame.f_globals.get("__name__", "").startswith("asyncio"):
            place = f"; it waits in {frame.f_code.co_filename}, line {frame.f_lineno}"
        coroutine = coroutine.cr_await
    return place
