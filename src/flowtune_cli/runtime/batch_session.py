"""Groups of requests that are answered together, and a session that does nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from ..flow.request import Answer, Engine, EngineSession, OnTokens, Request


class _Done(Protocol):
    def done(self) -> bool: ...


F = TypeVar("F", bound=_Done)


def largest_group(
    parked: Sequence[tuple[F, Request]], most: int
) -> tuple[list[tuple[F, Request]], list[tuple[F, Request]]]:
    """Split off the largest batch of requests of one kind for one adapter.

    Args:
        parked: requests with the futures of their answers; those that are done were cancelled.
    """
    groups: dict[Hashable, list[tuple[F, Request]]] = {}
    waiting = [entry for entry in parked if not entry[0].done()]
    for entry in waiting:
        groups.setdefault((entry[1].model, type(entry[1]), entry[1].adapter), []).append(entry)
    if not groups:
        return [], []
    largest = max(groups.values(), key=len)[:most]
    taken = {id(future) for future, _ in largest}
    return largest, [entry for entry in waiting if id(entry[0]) not in taken]


class BatchSession:
    """See ``flow.request.EngineSession``; a step answers the largest group, to its end."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._added: deque[tuple[Future[Answer], Request]] = deque()
        self._waiting: list[tuple[Future[Answer], Request]] = []

    @property
    def busy(self) -> bool:
        return bool(self._added or self._waiting)

    def add(self, request: Request, on_tokens: OnTokens | None = None) -> Future[Answer]:
        future: Future[Answer] = Future()
        self._added.append((future, request))
        return future

    def step(self) -> None:
        while self._added:
            self._waiting.append(self._added.popleft())
        batch, self._waiting = largest_group(self._waiting, len(self._waiting))
        # From now on nobody can cancel them.
        batch = [entry for entry in batch if entry[0].set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            answers = self.engine.answer([request for _, request in batch])
            pairs = list(zip(batch, answers, strict=True))
        except Exception as error:
            for future, _ in batch:
                future.set_exception(error)
            raise
        for (future, _), answer in pairs:
            future.set_result(answer)


def open_session(engine: Engine) -> EngineSession:
    """An engine's own session, or one of whole batches if it has none."""
    begin: Any = getattr(engine, "session", None)
    session: EngineSession = BatchSession(engine) if begin is None else begin()
    return session
