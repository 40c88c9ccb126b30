"""Drives the requests that servers decode: sends what each wants next, in the caller's thread."""

from __future__ import annotations

import queue
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from ..engine.packing import Ids
from ..flow.request import Generation
from .fleet import Fleet
from .outputs import Steps
from .server import Ask, Written


class Piece(NamedTuple):
    """Tokens that a server decoded after others.

    Args:
        model: the adapter's name there; None is the base model.
        before: the prompt, and what was decoded already.
    """

    model: str | None
    before: Ids
    written: Written


class Ended(NamedTuple):
    """A request whose outputs are there, and what they are made of."""

    key: Hashable
    generations: tuple[Generation, ...]
    pieces: list[Piece]


class Failed(NamedTuple):
    """A request that cannot be decoded."""

    key: Hashable
    error: Exception


@dataclass(eq=False)
class _Work:
    """A request in the making."""

    key: Hashable
    model: str | None
    steps: Steps
    only: str | None = None
    asked: list[Ask] = field(default_factory=list)
    futures: list[Future[Written]] = field(default_factory=list)
    missing: int = 0
    pieces: list[Piece] = field(default_factory=list)


class Driver:
    """The requests that servers decode at present."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._works: dict[Hashable, _Work] = {}
        self._done: queue.SimpleQueue[_Work] = queue.SimpleQueue()

    def __len__(self) -> int:
        return len(self._works)

    def start(
        self, key: Hashable, model: str | None, steps: Steps, only: str | None = None
    ) -> None:
        """Begin a request.

        Args:
            key: no other one has it.
            model: the adapter's name on the servers; None is the base model.
            only: the URL of the one server that decodes it; else any does.

        Raises:
            FlowtuneError: it cannot be decoded there.
        """
        work = _Work(key, model, steps, only)
        self._send(work, next(steps))
        self._works[key] = work

    def cancel(self, key: Hashable) -> None:
        """Forget a request."""
        work = self._works.pop(key)
        for future in work.futures:
            future.cancel()

    def cancel_all(self) -> None:
        """Forget all requests."""
        for key in list(self._works):
            self.cancel(key)

    def ended(self, seconds: float) -> list[Ended | Failed]:
        """The requests that have ended, after waiting for something to happen for so long."""
        found: list[Ended | Failed] = []
        try:
            work = self._done.get(timeout=seconds) if seconds else self._done.get_nowait()
            while True:
                found += self._take(work)
                work = self._done.get_nowait()
        except queue.Empty:
            return found

    def _take(self, work: _Work) -> list[Ended | Failed]:
        """One of the completions of a request is there."""
        if self._works.get(work.key) is not work:
            return []
        work.missing -= 1
        if work.missing:
            return []
        try:
            written = [future.result() for future in work.futures]
            work.pieces += [
                Piece(work.model, ask.prompt, each)
                for ask, each in zip(work.asked, written, strict=True)
            ]
            self._send(work, work.steps.send(written))
        except StopIteration as stop:
            del self._works[work.key]
            return [Ended(work.key, stop.value, work.pieces)]
        except Exception as error:
            self.cancel(work.key)
            return [Failed(work.key, error)]
        return []

    def _send(self, work: _Work, asked: list[Ask]) -> None:
        work.asked, work.missing = asked, len(asked)
        complete, only = self._fleet.complete, work.only
        work.futures = [self._fleet.submit(complete(work.model, ask, only)) for ask in asked]
        for future in work.futures:
            future.add_done_callback(lambda _: self._done.put(work))
