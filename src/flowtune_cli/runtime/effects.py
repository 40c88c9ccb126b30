"""Effects: what a flow does besides calling nodes, run once for an episode and its rollouts."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..flow.episode import EffectOptions
from .event_loop import OWN_TASKS, running_loop
from .recording import Key

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True)
class Raised:
    """The exception that an effect ended with; raised again wherever the effect is replayed."""

    error: Exception


@dataclass
class Effects:
    """The effects of an episode and its rollouts, by key.

    Attributes:
        results: what they returned, or ``Raised``. One that was cancelled has none.
    """

    results: dict[Key, Any] = field(default_factory=dict)
    _running: dict[Key, tuple[asyncio.Task[Any], set[object]]] = field(default_factory=dict)

    async def result(
        self,
        key: Key,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        options: EffectOptions,
    ) -> Any:
        """Run an effect, or wait for a run of it that is under way for another flow.

        It is cancelled once nobody waits for it any more.
        """
        if key not in self._running:
            # It belongs to no flow: the others go on waiting where one is ended.
            context = contextvars.copy_context()
            context.run(OWN_TASKS.set, None)
            coroutine = self._run(key, function, args, options)
            self._running[key] = context.run(running_loop().create_task, coroutine), set()
        task, waiting = self._running[key]
        me = object()
        waiting.add(me)
        try:
            return await asyncio.shield(task)
        finally:
            waiting.discard(me)
            if not waiting and self._running.get(key, (None,))[0] is task:
                del self._running[key]
                task.cancel()

    async def _run(
        self,
        key: Key,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        options: EffectOptions,
    ) -> Any:
        result: Any
        try:
            result = await _attempts(function, args, options)
        except Exception as error:
            result = Raised(error)
        self.results[key] = result
        return result


async def _attempts(function: Callable[..., Any], args: tuple[Any, ...], opt: EffectOptions) -> Any:
    loop = running_loop()
    seconds = loop.limits.effect_timeout if opt.timeout is None else opt.timeout
    retries = loop.limits.effect_retries if opt.retries is None else opt.retries
    for attempt in range(retries + 1):
        try:
            async with loop.effects_at_once:
                return await _once(function, args, seconds)
        except Exception:
            if attempt == retries:
                raise
        await asyncio.sleep(min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS))
    raise AssertionError


async def _once(function: Callable[..., Any], args: tuple[Any, ...], seconds: float) -> Any:
    try:
        return await asyncio.wait_for(_called(function, args), seconds or None)
    except asyncio.TimeoutError as error:
        if not seconds:
            raise
        name = getattr(function, "__qualname__", repr(function))
        raise TimeoutError(f"effect {name} took longer than {seconds:g} seconds") from error


async def _called(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(*args)
    result = await asyncio.to_thread(function, *args)
    return await result if inspect.isawaitable(result) else result
