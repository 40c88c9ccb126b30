"""The engine's steps in a thread, while the event loop and what flows wait for go on."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

from ..flow.request import Answer, Engine, EngineSession
from .batch_session import open_session
from .event_loop import FlowLoop


class EngineThread:
    """Answers what is parked on a loop, step by step.

    Steps and the scheduler take turns, so nothing is computed while a caller has a result. Flows go
    on within a step: an answer is delivered as soon as it is there.

    Args:
        most: how many requests are answered at a time; the others stay parked.
    """

    def __init__(self, engine: Engine, loop: FlowLoop, most: int) -> None:
        self._engine = engine
        self._loop = loop
        self._most = most
        self._session: EngineSession | None = None
        self._open: set[Future[Answer]] = set()
        self._pool = ThreadPoolExecutor(1, "engine")

    @property
    def busy(self) -> bool:
        """Whether there is anything for a step to do."""
        return self._session is not None and self._session.busy

    def take_parked(self) -> None:
        """Hand over what is parked, in the order of issue, as far as there is room."""
        if self._session is None:
            self._session = open_session(self._engine)
        self._open = {answer for answer in self._open if not answer.done()}
        room = self._most - len(self._open)
        taken, self._loop.parked = self._loop.parked[:room], self._loop.parked[room:]
        for future, request in taken:
            answer = self._session.add(request)
            self._open.add(answer)
            answer.add_done_callback(partial(self._deliver_soon, future))
            future.add_done_callback(partial(_cancel_too, answer))

    def step(self, seconds: float) -> None:
        """Make a step, and run the loop until it is made, looking up after so many seconds."""
        assert self._session is not None
        made = self._pool.submit(self._session.step)
        made.add_done_callback(lambda _: self._loop.call_soon_threadsafe(_nothing))
        try:
            while not made.done():
                self._loop.wait(seconds, until=made.done)
        finally:
            wait([made])  # it must not compute on behind a run that has ended
        made.result()

    def close(self) -> None:
        """End the thread; what was not answered never is."""
        self._pool.shutdown()

    def _deliver_soon(self, future: asyncio.Future[Any], answer: Future[Answer]) -> None:
        # Where the engine failed, its step raises, too, and that ends the run; unless an error
        # concerns those alone who have asked.
        raises = getattr(self._session, "step_raises", True)
        if answer.cancelled() or (raises and answer.exception() is not None):
            return
        self._loop.call_soon_threadsafe(_deliver, future, answer)


def _deliver(future: asyncio.Future[Any], answer: Future[Answer]) -> None:
    if future.done():
        return
    error = answer.exception()
    if error is None:
        future.set_result(answer.result())
    else:
        future.set_exception(error)


def _cancel_too(answer: Future[Answer], future: asyncio.Future[Any]) -> None:
    if future.cancelled():
        answer.cancel()


def _nothing() -> None:
    """Wakes a loop."""
