"""An asyncio event loop that knows when all tasks wait, and for what.

Nothing here relies on what asyncio keeps to itself: a loop asks its selector to wait only when no
task can run, so a selector of our own is told.
"""

from __future__ import annotations

import asyncio
import atexit
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ..flow.errors import FlowtuneError
from ..flow.request import Request


@dataclass(frozen=True)
class EpisodeLimits:
    """What an episode or rollout may take; 0 is no limit.

    Args:
        max_steps: node calls.
        episode_timeout: seconds in which no call waits for a node: for tools, sockets, clocks.
        effects: how many run at once, over all episodes.
        effect_timeout: seconds of one attempt.
        effect_retries: further attempts after an exception.
    """

    max_steps: int = 0
    episode_timeout: float = 0.0
    effects: int = 32
    effect_timeout: float = 0.0
    effect_retries: int = 0


NO_LIMITS = EpisodeLimits()

CLOSING_SECONDS = 5.0
"""How long tasks that are cancelled may take to end; then they are left behind."""

OWN_TASKS: ContextVar[set[asyncio.Task[Any]] | None] = ContextVar("own_tasks", default=None)
"""Where the tasks are kept that are made in this context: those of one run of a flow."""


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Asks how long to wait when nothing is ready."""

    at_rest: Callable[[float | None], float | None]

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        # A thread or a socket may have something already.
        return super().select(0) or super().select(self.at_rest(timeout))


def _never() -> bool:
    return False


class FlowLoop(asyncio.SelectorEventLoop):
    """Runs tasks until all of them wait; requests to the engine are parked.

    Attributes:
        parked: the requests that wait for an answer, each with its future, in order of issue.
        on_rest: called when all tasks wait, before the engine is asked; emptied then.
        stuck: called when nothing at all is waited for any more.
        limits: what an episode may take.
        closing: the run is over: no request is taken any more.
    """

    def __init__(self) -> None:
        selector = _Selector()
        selector.at_rest = self._at_rest
        super().__init__(selector)
        self.set_task_factory(_owned_task)
        self._selector_map = selector.get_map
        self._own_files = len(selector.get_map())
        self._in_threads = 0
        self._has_timer = False
        self._patience = 0.0
        self._until: Callable[[], bool] = _never
        self._thread: ThreadPoolExecutor | None = None
        self._error: BaseException | None = None
        self.parked: list[tuple[asyncio.Future[Any], Request]] = []
        self.on_rest: list[Callable[[], None]] = []
        self.stuck: list[Callable[[], None]] = []
        self.limits = NO_LIMITS
        self.effects_at_once = asyncio.Semaphore(NO_LIMITS.effects)
        # The default one has few threads where there are few cores; these mostly wait.
        self.set_default_executor(ThreadPoolExecutor(256, "tools"))
        self.closing = False

    # For flows

    def park(self, request: Request) -> asyncio.Future[Any]:
        """The future of a request's answer."""
        if self.closing:
            raise asyncio.CancelledError
        future = self.create_future()
        self.parked.append((future, request))
        return future

    def spawn(self, coroutine: Coroutine[Any, Any, Any], done: Callable[[Any], None]) -> None:
        """Run a coroutine; an exception of it ends the whole run."""
        self.create_task(self._job(coroutine, done))

    async def _job(self, coroutine: Coroutine[Any, Any, Any], done: Callable[[Any], None]) -> None:
        try:
            result = await coroutine
        except BaseException as error:
            if not self.closing and self._error is None:
                self._error = error
            self.stop()
        else:
            # In the same step, so that what waits for it goes on in the order of the ends.
            done(result)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> Any:
        """As every loop does; it is counted what threads are waited for."""
        future = super().run_in_executor(executor, func, *args)
        self._in_threads += 1
        future.add_done_callback(self._end_of_thread)
        return future

    def _end_of_thread(self, future: Any) -> None:
        self._in_threads -= 1

    # For the scheduler

    @property
    def waits_outside(self) -> bool:
        """Whether anything is waited for but the engine: a clock, a socket, a thread."""
        files = len(self._selector_map())
        return self._has_timer or self._in_threads > 0 or files > self._own_files

    def settle(self) -> None:
        """Run until all tasks wait.

        Raises:
            BaseException: what a job raised.
        """
        self._run(0.0)
        while self.on_rest:
            todo, self.on_rest = self.on_rest, []
            for each in todo:
                each()
            self._run(0.0)

    def wait(self, seconds: float, until: Callable[[], bool] = _never) -> None:
        """Wait for something outside, at most so long, and then run until all tasks wait.

        Args:
            until: whether there is nothing to wait for any more. Who makes it true must wake the
                loop, which may happen before it waits.
        """
        self._run(seconds, until)
        self.settle()

    def _run(self, patience: float, until: Callable[[], bool] = _never) -> None:
        self._patience, self._until = patience, until
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.run_forever()
        else:
            # The caller is itself in a loop, as a notebook's cells are: one thread runs one loop.
            self._run_in_thread()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run_in_thread(self) -> None:
        self._thread = self._thread or ThreadPoolExecutor(1, "flows")
        running = self._thread.submit(self.run_forever)
        try:
            running.result()
        except BaseException:
            self.call_soon_threadsafe(self.stop)
            wait([running])
            raise

    def _at_rest(self, timeout: float | None) -> float | None:
        self._has_timer = timeout is not None
        if self._patience > 0 and not self._until():
            patience, self._patience = self._patience, 0.0
            return patience if timeout is None else min(timeout, patience)
        self.stop()
        return 0

    def end_tasks(self) -> bool:
        """Cancel all tasks; False if some do not end in time, and are left behind."""
        self.closing = True
        self.parked.clear()
        self.on_rest.clear()
        self.stuck.clear()
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        deadline = time.monotonic() + CLOSING_SECONDS
        with suppress(Exception):
            self._run(0.0)
        while any(not t.done() for t in tasks) and time.monotonic() < deadline:
            with suppress(Exception):
                self._run(max(deadline - time.monotonic(), 0.001))
        for task in tasks:
            if task.done() and not task.cancelled():
                # Whatever it is must not hide the error that ended the run.
                task.exception()
        self.closing = False
        self._error = None
        return not asyncio.all_tasks(self)

    def close(self) -> None:
        """Close it; it cannot be used again."""
        super().close()
        if self._thread is not None:
            self._thread.shutdown(wait=False)


def _owned_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **more)
    context = more.get("context")
    own = OWN_TASKS.get() if context is None else context.get(OWN_TASKS)
    if own is not None:
        own.add(task)
        task.add_done_callback(own.discard)
    return task


_free: list[FlowLoop] = []


@contextmanager
def borrowed_loop(limits: EpisodeLimits) -> Iterator[FlowLoop]:
    """A loop without tasks. It is kept open for the next one, and with it the flows' clients."""
    loop = _free.pop() if _free else FlowLoop()
    loop.limits = limits
    loop.effects_at_once = asyncio.Semaphore(limits.effects)
    reusable = False
    try:
        yield loop
    finally:
        try:
            reusable = loop.end_tasks()
        finally:
            if reusable:
                _free.append(loop)
            elif not loop.is_running():
                loop.close()


@atexit.register
def _close_all() -> None:
    while _free:
        _free.pop().close()


def running_loop() -> FlowLoop:
    """The loop that the caller's task runs on.

    Raises:
        FlowtuneError: it is not one of ours.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, FlowLoop):
        raise FlowtuneError(
            "a node was called from an event loop of the flow's own (asyncio.run in a thread,"
            " perhaps). Await episode.call(...) and episode.effect(...) in the flow itself or in"
            " tasks that it makes."
        )
    return loop
