"""One engine for several models: the base model's, and those of others that play single nodes."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

from ..flow.request import Answer, EngineSession, OnTokens, Request


class SeveralSessions:
    """See ``flow.request.EngineSession``; a step is one of each model's that has something to do.

    Args:
        base: that of the base model.
        others: those of other models, by their names.
    """

    def __init__(self, base: EngineSession, others: Mapping[str, EngineSession]) -> None:
        self._sessions: dict[str | None, EngineSession] = {None: base}
        self._sessions.update(others)

    @property
    def busy(self) -> bool:
        return any(session.busy for session in self._sessions.values())

    def add(self, request: Request, on_tokens: OnTokens | None = None) -> Future[Answer]:
        return self._sessions[request.model].add(request, on_tokens)

    def step(self) -> None:
        for session in self._sessions.values():
            if session.busy:
                session.step()
