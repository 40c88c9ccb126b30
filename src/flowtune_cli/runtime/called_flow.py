"""A flow that is called: episodes begin at any time, from any thread, and run side by side."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..flow.episode import Episode
from ..flow.errors import FlowFailed, UsageError
from ..flow.example import Example
from ..flow.task import Task
from .event_loop import CLOSING_SECONDS
from .play import play
from .replay import Seed
from .scheduler import Scheduler

MOST_AT_ONCE = 256
"""How many calls are played side by side; the others wait."""

_FOREVER = 1e9
"""Seconds. While a clock runs, calls that come late join the engine's decoding."""

Made = Callable[[Episode], Any]
"""What a call gives of its episode."""


def result_of(episode: Episode) -> Any:
    """What the flow returned."""
    return episode.result


@dataclass(eq=False)
class _Call:
    example: Example
    seed: Seed
    made: Made
    result: Future[Any] = field(default_factory=Future)
    task: asyncio.Task[None] | None = None
    is_dropped: bool = False

    def drop(self) -> None:
        """Stop playing; its failure, which that is to the flow, is not one to the caller."""
        self.is_dropped = True
        if self.task is not None:
            self.task.cancel()


class CalledFlow:
    """A task's flow, in a thread of its own; ``close`` it.

    Args:
        scheduler: makes what plays episodes: one for each time that the thread is started.
    """

    def __init__(self, task: Task, scheduler: Callable[[], Scheduler]) -> None:
        self.task = task
        self._scheduler: Callable[[], Scheduler] | None = scheduler
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: asyncio.Queue[_Call | None] | None = None
        self._open: set[_Call] = set()

    def submit(self, example: Example, seed: Seed, made: Made = result_of) -> Future[Any]:
        """Play an example; the result may be waited for, or cancelled, by any thread.

        Args:
            seed: what the noise of sampled outputs comes from.
            made: makes the result of the episode, which has no failure.

        Raises:
            UsageError: the flow is closed; or this process is a fork of the one that has it.
        """
        if os.getpid() != self._process:  # whose thread is not here: nobody would ever answer
            raise UsageError(
                "the flow was loaded before this process was forked: load it in each process"
            )
        call = _Call(example, seed, made)
        with self._lock:
            if self._scheduler is None:
                raise UsageError("the flow is closed: load it again")
            self._open.add(call)
            loop, queue = self._running(self._scheduler)
            loop.call_soon_threadsafe(queue.put_nowait, call)
        return call.result

    def close(self) -> None:
        """End the thread; calls that have no result are cancelled."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._scheduler = None
            thread, self._thread = self._thread, None
            if thread is not None and self._loop is not None and self._queue is not None:
                self._loop.call_soon_threadsafe(self._queue.put_nowait, None)
        if thread is not None:
            thread.join(3 * CLOSING_SECONDS)  # a flow that blocks its loop is left behind, too

    # The thread

    def _running(
        self, scheduler: Callable[[], Scheduler]
    ) -> tuple[asyncio.AbstractEventLoop, asyncio.Queue[_Call | None]]:
        if self._thread is None:
            started = threading.Event()
            self._thread = threading.Thread(
                target=self._work, args=(scheduler, started), name="flow", daemon=True
            )
            self._thread.start()
            started.wait()
        assert self._loop is not None
        assert self._queue is not None
        return self._loop, self._queue

    def _work(self, scheduler: Callable[[], Scheduler], started: threading.Event) -> None:
        failure: BaseException | None = None
        try:
            for _ in scheduler().stream([self._play_all(started)]):
                pass
        except BaseException as error:  # of the engine: it concerns all that it was answering
            failure = error
        started.set()
        with self._lock:
            if self._thread is threading.current_thread():
                self._thread = None  # the next call starts another one
            left, self._open = self._open, set()
        for call in left:
            if failure is None:
                call.result.cancel()
            else:
                _end(call, partial(call.result.set_exception, failure))

    async def _play_all(self, started: threading.Event) -> None:
        loop = self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[_Call | None] = asyncio.Queue()
        self._queue = queue
        started.set()
        clock = loop.call_later(_FOREVER, _nothing)
        at_once = asyncio.Semaphore(MOST_AT_ONCE)
        calls: dict[asyncio.Task[None], _Call] = {}
        try:
            while (call := await queue.get()) is not None:
                call.task = loop.create_task(self._play(call, at_once))
                calls[call.task] = call
                call.task.add_done_callback(calls.pop)
                call.result.add_done_callback(partial(_drop_too, loop, call))
        finally:
            clock.cancel()
            for call in calls.values():
                call.drop()
            if calls:
                # A flow that does not let itself be cancelled is left behind.
                await asyncio.wait(list(calls), timeout=CLOSING_SECONDS)

    async def _play(self, call: _Call, at_once: asyncio.Semaphore) -> None:
        try:
            async with at_once:
                episode = await play(self.task, call.example, seed=call.seed)
            if episode.failure is not None:
                if call.is_dropped:
                    return
                raise FlowFailed(episode.failure.error, episode.failure.traceback)
            made = call.made(episode)
        except Exception as error:
            _end(call, partial(call.result.set_exception, error))
        else:
            _end(call, partial(call.result.set_result, made))
        finally:
            # Else the thread is ending, which says how.
            if call.result.done():
                with self._lock:
                    self._open.discard(call)


def _end(call: _Call, end: Callable[[], None]) -> None:
    """Give a call its end, unless the caller has cancelled it."""
    if call.result.set_running_or_notify_cancel():
        end()


def _drop_too(loop: asyncio.AbstractEventLoop, call: _Call, result: Future[Any]) -> None:
    if result.cancelled() and not loop.is_closed():
        loop.call_soon_threadsafe(call.drop)


def _nothing() -> None:
    """The clock's end, which nobody will see."""
