"""The scheduler: runs many coroutines concurrently and batches their requests to the engine.

A flow is an ordinary ``async`` function on an asyncio event loop, and may await anything. Awaiting
a node parks it here with its request; when all tasks of all flows wait, what is parked is answered
in batches, so that episodes and rollouts that wait for the same node share one. Where nothing else
is waited for, there is no thread or clock: the same coroutines make the same requests in the same
order. Else the engine goes on by steps, between which requests that come late join those that are
being answered (see ``engine_thread``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

from ..flow.request import Engine, Request
from .batch_session import largest_group
from .engine_thread import EngineThread
from .event_loop import NO_LIMITS, EpisodeLimits, FlowLoop, borrowed_loop, running_loop

T = TypeVar("T")

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
            in a thread, step by step if it has a ``session``; without one, requests that come late
            join the next batch.
        in_flight: outermost coroutines that run at once. It bounds memory and fills batches;
            results do not depend on it.
        batch_requests: maximum number of requests that are answered at a time.
        check: called before each batch and step of the engine, and now and then while flows wait
            for something else; may raise, which ends the run.
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
        with (
            borrowed_loop(self.limits) as loop,
            closing(EngineThread(self.engine, loop, self.batch_requests)) as thread,
        ):
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
                self._go_on(loop, thread)

    def _go_on(self, loop: FlowLoop, thread: EngineThread) -> None:
        """Answer some of what is parked, or wait for something outside."""
        loop.parked = [entry for entry in loop.parked if not entry[0].done()]
        if not (loop.parked or thread.busy or loop.waits_outside) and loop.stuck:
            loop.stuck.pop(0)()
            return
        self.check()
        if loop.waits_outside or thread.busy:
            thread.take_parked()
            if thread.busy:
                thread.step(_CHECK_SECONDS)
                return
        if getattr(self.engine, "mixes_adapters", False):
            most = self.batch_requests
            batch, loop.parked = loop.parked[:most], loop.parked[most:]
        else:
            batch, loop.parked = largest_group(loop.parked, self.batch_requests)
        if not batch:
            loop.wait(_CHECK_SECONDS)
            return
        answers = self.engine.answer([request for _, request in batch])
        for (future, _), answer in list(zip(batch, answers, strict=True)):
            if not future.done():
                future.set_result(answer)


def _append(finished: deque[tuple[int, Any]], position: int, result: Any) -> None:
    finished.append((position, result))
