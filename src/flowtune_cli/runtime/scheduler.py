"""The scheduler: runs many coroutines concurrently and batches their requests to the engine.

A flow is an ordinary ``async`` function on an asyncio event loop, and may await anything. Awaiting
a node parks it here with its request; when all tasks of all flows wait, what is parked is answered
in batches, so that episodes and rollouts that wait for the same node share one. Where nothing else
is waited for, there is no thread or clock: the same coroutines make the same requests in the same
order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

from ..flow.request import Answer, Engine, Request
from .event_loop import NO_LIMITS, EpisodeLimits, FlowLoop, borrowed_loop, running_loop

T = TypeVar("T")

Parked = tuple["asyncio.Future[Any]", Request]

_CHECK_SECONDS = 0.5
"""How often it is asked, while flows wait for the outside, whether the run is to stop."""


async def ask(request: Request) -> Any:
    """Await the engine's answer to a request."""
    return await running_loop().park(request)


async def gather(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await concurrent coroutines; their results come in the order of the arguments.

    An exception in one ends the whole run.
    """
    loop = running_loop()
    todo = list(coroutines)
    if not todo:
        await asyncio.sleep(0)
        return []
    results: dict[int, T] = {}
    all_ended = loop.create_future()

    def end(position: int, result: T) -> None:
        results[position] = result
        if len(results) == len(todo) and not all_ended.done():
            all_ended.set_result(None)

    for position, coroutine in enumerate(todo):
        loop.spawn(coroutine, partial(end, position))
    await all_ended
    return [results[position] for position in range(len(todo))]


class Scheduler:
    """Runs coroutines to completion, at most ``in_flight`` outermost ones at a time.

    Args:
        engine: answers batches of requests. While flows wait for something else, too, it computes
            in a thread, one batch at a time, and requests that come late join the next batch.
        in_flight: outermost coroutines that run at once. It bounds memory and fills batches;
            results do not depend on it.
        batch_requests: maximum number of requests in a batch.
        check: called now and then while flows wait for something else than the engine; may raise,
            which ends the run.
        limits: what each episode or rollout may take.
    """

    def __init__(
        self,
        engine: Engine,
        in_flight: int = 8,
        batch_requests: int = 256,
        check: Callable[[], None] = lambda: None,
        limits: EpisodeLimits = NO_LIMITS,
    ) -> None:
        self.engine = engine
        self.in_flight = in_flight
        self.batch_requests = batch_requests
        self.check = check
        self.limits = limits

    def run(self, coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """Run all coroutines; returns their results in the order of the arguments.

        An exception from a coroutine or from the engine ends the whole run.
        """
        return [result for _, result in sorted(self.stream(coroutines), key=lambda pair: pair[0])]

    def stream(self, coroutines: Iterable[Coroutine[Any, Any, T]]) -> Iterator[tuple[int, T]]:
        """Like ``run``, but yields ``(position, result)`` as each coroutine completes.

        It may be called from a running event loop (in a notebook), which stands still meanwhile.
        """
        source = enumerate(coroutines)
        finished: deque[tuple[int, T]] = deque()
        alive = 0
        exhausted = False
        with borrowed_loop(self.limits) as loop:
            while True:
                while not exhausted and alive < self.in_flight:
                    try:
                        position, coroutine = next(source)
                    except StopIteration:
                        exhausted = True
                        break
                    alive += 1
                    loop.spawn(coroutine, partial(_append, finished, position))
                loop.settle()
                while finished:
                    alive -= 1
                    yield finished.popleft()
                if not exhausted and alive < self.in_flight:
                    continue
                if not alive:
                    return
                batch, loop.parked = _largest_group(loop.parked, self.batch_requests)
                if batch:
                    self._answer(loop, batch)
                elif loop.stuck and not loop.waits_outside:
                    loop.stuck.pop(0)()
                else:
                    self.check()
                    loop.wait(_CHECK_SECONDS)

    def _answer(self, loop: FlowLoop, batch: list[Parked]) -> None:
        requests = [request for _, request in batch]
        if loop.waits_outside:
            answers = self._in_thread(loop, requests)
        else:
            answers = self.engine.answer(requests)
        for (future, _), answer in list(zip(batch, answers, strict=True)):
            if not future.done():
                future.set_result(answer)

    def _in_thread(self, loop: FlowLoop, requests: list[Request]) -> list[Answer]:
        """The engine's answers, while tools and sockets go on."""
        pool = ThreadPoolExecutor(1, "engine")
        try:
            answers: Future[list[Answer]] = pool.submit(self.engine.answer, requests)
            answers.add_done_callback(lambda done: loop.call_soon_threadsafe(_nothing))
            try:
                while not answers.done():
                    loop.wait(_CHECK_SECONDS)
            finally:
                wait([answers])  # it must not compute on behind a run that has ended
            return answers.result()
        finally:
            pool.shutdown()


def _append(finished: deque[tuple[int, Any]], position: int, result: Any) -> None:
    finished.append((position, result))


def _nothing() -> None:
    """Wakes a loop."""


def _largest_group(parked: list[Parked], most: int) -> tuple[list[Parked], list[Parked]]:
    """Split off the largest batch of requests of one kind for one adapter."""
    groups: dict[Any, list[Parked]] = {}
    waiting = [entry for entry in parked if not entry[0].done()]  # the others were cancelled
    for entry in waiting:
        groups.setdefault((type(entry[1]), entry[1].adapter), []).append(entry)
    if not groups:
        return [], []
    largest = max(groups.values(), key=len)[:most]
    taken = {id(future) for future, _ in largest}
    return largest, [entry for entry in waiting if id(entry[0]) not in taken]
