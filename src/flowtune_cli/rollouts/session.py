"""A session of the engine of servers: requests are sent as they come, answered as they end."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

from ..engine.engine import DecodeKey
from ..engine.jobs import Asked, Job, Jobs, give
from ..engine.model_session import ModelSession
from ..flow.request import Answer, DecodeRequest, OnTokens, Refusal, Request
from .driver import Driver, Failed

if TYPE_CHECKING:
    from .engine import VllmEngine

_WAIT_SECONDS = 0.2
"""A step lasts as long at most, where all there is to do is to wait for servers."""


class RolloutSession:
    """See ``flow.request.EngineSession``. Tokens are told when all of an output are there.

    Args:
        engine: its servers hold the adapters.
    """

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine
        self._local = ModelSession(engine.local)
        self._driver = Driver(engine.fleet)
        self._added: deque[tuple[DecodeRequest, OnTokens | None, Future[Answer]]] = deque()
        self._jobs = Jobs(engine.local)
        self._running: dict[DecodeKey, Job] = {}

    @property
    def busy(self) -> bool:
        return bool(self._added or self._running or self._local.busy)

    def add(self, request: Request, on_tokens: OnTokens | None = None) -> Future[Answer]:
        if not self._engine.goes_there(request):
            return self._local.add(request, on_tokens)
        assert isinstance(request, DecodeRequest)
        future: Future[Answer] = Future()
        self._added.append((request, on_tokens, future))
        return future

    def step(self) -> None:
        self._take_in()
        self._drop_cancelled()
        if self._local.busy:
            self._local.step()
        if self._running:
            self._take_ended(0.0 if self._local.busy else _WAIT_SECONDS)

    def _take_in(self) -> None:
        while self._added:
            request, on_tokens, future = self._added.popleft()
            try:
                found = self._engine.local.refuse_or_tokenize(request)
            except Exception as error:
                give(future, error)
                raise
            if isinstance(found, Refusal):
                give(future, found)
                continue
            prompt, key = found
            job = self._jobs.ask(Asked(prompt, key, future, on_tokens))
            if job is not None:
                with self._jobs.failing([job]):
                    self._engine.begin(self._driver, [key])
                self._running[key] = job

    def _drop_cancelled(self) -> None:
        for key, job in list(self._running.items()):
            if self._jobs.drop_cancelled(job):
                del self._running[key]
                self._driver.cancel(key)

    def _take_ended(self, seconds: float) -> None:
        errors: list[Exception] = []
        for each in self._driver.ended(seconds):
            assert isinstance(each.key, DecodeKey)
            job = self._running.pop(each.key)
            try:
                with self._jobs.failing([job]):
                    if isinstance(each, Failed):
                        raise each.error
                    self._engine.end(each)
            except Exception as error:
                errors.append(error)
            else:
                self._jobs.end(job, each.generations)
        if errors:
            raise errors[0]
