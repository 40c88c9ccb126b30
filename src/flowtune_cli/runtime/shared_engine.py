"""One engine for all who ask at any time: its steps are made in a thread of its own.

Requests of flows (a ``Scheduler`` takes this for its engine) and of whoever calls ``add`` join the
same running batches between steps, and leave them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from ..flow.errors import FlowtuneError
from ..flow.request import Answer, Engine, OnTokens, Request
from .batch_session import open_session

CLOSING_SECONDS = 30.0
"""How long a step that is being made is waited for in the end."""


class SharedEngine:
    """An engine whose requests may come from any thread.

    An error of the engine concerns those alone whose requests it could not answer: it is their
    future's. Where it leaves all of them unanswered, all have it, and a new session begins.

    Args:
        engine: nobody else may use it meanwhile.
        between: called before each step, when the engine may be told to forget.

    Attributes:
        steps: how many were made.
        failure: the error of the last step, unless it was about a request; None as soon as a step
            goes well.
    """

    def __init__(self, engine: Engine, between: Callable[[], None] = lambda: None) -> None:
        self.steps = 0
        self.failure: Exception | None = None
        self._engine = engine
        self._between = between
        self._session = open_session(engine)
        self._changed = threading.Condition()
        self._open: set[Future[Answer]] = set()
        self._failed = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def add(self, request: Request, on_tokens: OnTokens | None = None) -> Future[Answer]:
        """Have a request answered; see ``EngineSession.add``.

        Raises:
            FlowtuneError: the engine is closed.
        """
        with self._changed:
            if self._closed:
                raise FlowtuneError("the engine is closed")
            future = self._session.add(request, on_tokens)
            self._open.add(future)
            self._changed.notify_all()
        future.add_done_callback(self._forget)
        return future

    def answer(self, requests: list[Request]) -> list[Answer]:
        """See ``Engine``; to be called in a thread that has nothing else to do."""
        return [future.result() for future in [self.add(request) for request in requests]]

    def session(self) -> SharedSession:
        """A session whose requests are answered beside all others."""
        return SharedSession(self)

    @property
    def running(self) -> int:
        """How many requests are being decoded."""
        return len(self._open) - self.waiting

    @property
    def waiting(self) -> int:
        """How many requests wait to be taken up, as far as the engine tells."""
        waiting: int = getattr(self._session, "waiting", 0)
        return min(waiting, len(self._open))

    def close(self) -> None:
        """End the thread; what has no answer is cancelled."""
        with self._changed:
            self._closed = True
            left = list(self._open)
            self._changed.notify_all()
        for future in left:
            future.cancel()
        self._thread.join(CLOSING_SECONDS)

    def wait_for_step(self, done: Callable[[], bool]) -> None:
        """Wait until the step is made that is made now, or ``done`` is true."""
        with self._changed:
            before = self.steps
            self._changed.wait_for(lambda: self._closed or self.steps > before or done())

    def _forget(self, future: Future[Answer]) -> None:
        with self._changed:
            self._open.discard(future)
            if not future.cancelled() and future.exception() is not None:
                self._failed += 1

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._session.busy)
                if self._closed:
                    return
                before = self._failed
            try:
                self._between()
                self._session.step()
                self.failure = None
            except Exception as error:
                self._step_failed(error, before)
            with self._changed:
                self.steps += 1
                self._changed.notify_all()

    def _step_failed(self, error: Exception, before: int) -> None:
        if not isinstance(error, FlowtuneError):
            self.failure = error
        with self._changed:
            # Not by who is left: others may have asked meanwhile, whom it does not concern.
            if self._failed > before:
                return
            left = list(self._open)
            # It did not say whose error it is, and would make it again for ever.
            self._session = open_session(self._engine)
        for future in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)


class SharedSession:
    """The requests of one scheduler among those of a shared engine; see ``EngineSession``.

    Attributes:
        step_raises: an error is told to those alone whom it concerns, by their futures.
    """

    step_raises = False

    def __init__(self, shared: SharedEngine) -> None:
        self._shared = shared
        self._open: set[Future[Answer]] = set()

    @property
    def busy(self) -> bool:
        self._open = {future for future in self._open if not future.done()}
        return bool(self._open)

    def add(self, request: Request, on_tokens: OnTokens | None = None) -> Future[Answer]:
        future = self._shared.add(request, on_tokens)
        self._open.add(future)
        return future

    def step(self) -> None:
        mine = list(self._open)
        self._shared.wait_for_step(partial(_any_done, mine))


def _any_done(futures: list[Future[Answer]]) -> bool:
    return not futures or any(future.done() for future in futures)
