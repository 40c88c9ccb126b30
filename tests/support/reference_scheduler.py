"""The order that schedulers keep: coroutines are driven by hand, in a queue.

There is no event loop, thread or clock: the same coroutines make the same requests in the same
order. Tests compare the batches of ``flowtune_cli.runtime.scheduler`` with its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Coroutine, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.flow.request import Answer, Engine, Request

T = TypeVar("T")


class _Ask:
    def __init__(self, request: Request) -> None:
        self.request = request

    def __await__(self) -> Generator[_Ask, Answer, Answer]:
        return (yield self)


class _Gather:
    def __init__(self, coroutines: list[Coroutine[Any, Any, Any]]) -> None:
        self.coroutines = coroutines

    def __await__(self) -> Generator[_Gather, list[Any], list[Any]]:
        return (yield self)


def ask(request: Request) -> Awaitable[Any]:
    """Await the engine's answer to a request."""
    return _Ask(request)


def gather(coroutines: Iterable[Coroutine[Any, Any, T]]) -> Awaitable[list[T]]:
    """Await concurrent coroutines; their results come in the order of the arguments."""
    return _Gather(list(coroutines))


@dataclass
class _Job:
    coroutine: Coroutine[Any, Any, Any]
    parent: _Job | None = None
    position: int = 0
    children: list[Any] = field(default_factory=list)
    waiting_for: int = 0


class Scheduler:
    """Runs coroutines to completion, at most ``in_flight`` outermost ones at a time.

    Args:
        engine: answers batches of requests.
        in_flight: outermost coroutines that run at once. It bounds memory and fills batches;
            results do not depend on it.
        batch_requests: maximum number of requests in a batch.
    """

    def __init__(self, engine: Engine, in_flight: int = 8, batch_requests: int = 256) -> None:
        self.engine = engine
        self.in_flight = in_flight
        self.batch_requests = batch_requests

    def run(self, coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """Run all coroutines; returns their results in the order of the arguments.

        An exception from a coroutine or from the engine ends the whole run.
        """
        return [result for _, result in sorted(self.stream(coroutines), key=lambda pair: pair[0])]

    def stream(self, coroutines: Iterable[Coroutine[Any, Any, T]]) -> Iterator[tuple[int, T]]:
        """Like ``run``, but yields ``(position, result)`` as each coroutine completes."""
        source = enumerate(coroutines)
        ready: deque[tuple[_Job, Any]] = deque()
        parked: list[tuple[_Job, Request]] = []
        finished: deque[tuple[int, Any]] = deque()
        alive: dict[int, _Job] = {}
        outermost = 0
        exhausted = False

        def end(job: _Job, result: Any) -> None:
            nonlocal outermost
            alive.pop(id(job), None)
            if job.parent is None:
                outermost -= 1
                finished.append((job.position, result))
                return
            parent = job.parent
            parent.children[job.position] = result
            parent.waiting_for -= 1
            if parent.waiting_for == 0:
                ready.append((parent, parent.children))

        def advance(job: _Job, value: Any) -> None:
            try:
                wanted = job.coroutine.send(value)
            except StopIteration as stop:
                end(job, stop.value)
                return
            if isinstance(wanted, _Ask):
                parked.append((job, wanted.request))
            elif isinstance(wanted, _Gather):
                job.children = [None] * len(wanted.coroutines)
                job.waiting_for = len(wanted.coroutines)
                if not wanted.coroutines:
                    ready.append((job, []))
                for position, coroutine in enumerate(wanted.coroutines):
                    child = _Job(coroutine, parent=job, position=position)
                    alive[id(child)] = child
                    ready.append((child, None))
            else:
                raise FlowtuneError(
                    f"a flow awaited {type(wanted).__name__}, which is not a node call. Await"
                    " episode.call(...), and wrap other slow work in episode.effect(...)."
                )

        try:
            while True:
                while not exhausted and outermost < self.in_flight:
                    try:
                        position, coroutine = next(source)
                    except StopIteration:
                        exhausted = True
                        break
                    job = _Job(coroutine, position=position)
                    alive[id(job)] = job
                    outermost += 1
                    ready.append((job, None))
                while ready:
                    advance(*ready.popleft())
                while finished:
                    yield finished.popleft()
                if not exhausted and outermost < self.in_flight:
                    continue
                if not parked:
                    if exhausted and not alive:
                        return
                    continue
                batch, parked = _largest_group(parked, self.batch_requests)
                answers = self.engine.answer([request for _, request in batch])
                ready.extend((job, answer) for (job, _), answer in zip(batch, answers, strict=True))
        finally:
            for job in list(alive.values()):
                # An exception while closing a flow must neither hide the error that ended the run
                # nor keep the other flows from being closed.
                with suppress(Exception):
                    job.coroutine.close()


def _largest_group(
    parked: list[tuple[_Job, Request]], most: int
) -> tuple[list[tuple[_Job, Request]], list[tuple[_Job, Request]]]:
    """Split off the largest batch of requests of one kind for one adapter."""
    groups: dict[Any, list[tuple[_Job, Request]]] = {}
    for entry in parked:
        groups.setdefault((type(entry[1]), entry[1].adapter), []).append(entry)
    largest = max(groups.values(), key=len)[:most]
    taken = {id(job) for job, _ in largest}
    return largest, [entry for entry in parked if id(entry[0]) not in taken]
