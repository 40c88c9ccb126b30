"""Effects: what a flow does besides calling nodes, run once for an episode and its rollouts."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..flow.effect import EffectEnd, EffectOptions, Key, effect_name, strict_json
from .event_loop import OWN_TASKS, running_loop

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0


REWARD = "reward"
"""What the key of a plain reward begins with; see ``Effects.remembered``."""

RunName = tuple[int, ...]
"""Which run of an example's flow: a rollout's step and alternative, or ``GREEDY``."""
GREEDY: RunName = ()

Group = tuple[Key, ...]
"""What a flow was given together."""


class Journal(Protocol):
    """Keeps what cannot be computed again, before a flow gets it."""

    def end(self, key: Key, end: EffectEnd) -> None:
        """An effect has ended."""

    def deliver(self, run: RunName, keys: Group) -> None:
        """A run that has effects gets these calls' and effects' ends, together."""


class NoJournal:
    """Keeps nothing."""

    def end(self, key: Key, end: EffectEnd) -> None:
        """See ``Journal``."""

    def deliver(self, run: RunName, keys: Group) -> None:
        """See ``Journal``."""


@dataclass
class Effects:
    """The effects of an episode and its rollouts.

    Attributes:
        ends: how they ended, by key. One that was cancelled has no end.
        orders: in which order each run got its calls' and effects' ends before it was interrupted.
        journal: told of each before a flow gets it.
        of_episode: the keys of the episode's own effects.
        elsewhere: another process plays the episode: here, nothing is asked of the world.
        wanted: something was to be asked all the same, so what came of it is not to be used.
    """

    ends: dict[Key, EffectEnd] = field(default_factory=dict)
    orders: Mapping[RunName, Sequence[Group]] = field(default_factory=dict)
    journal: Journal = field(default_factory=NoJournal)
    of_episode: set[Key] = field(default_factory=set)
    elsewhere: bool = False
    wanted: bool = False
    _delivered: dict[RunName, int] = field(default_factory=dict)
    _running: dict[Key, tuple[asyncio.Task[Any], set[object]]] = field(default_factory=dict)

    def end(self, key: Key, end: EffectEnd) -> None:
        """Note how an effect has ended."""
        self.journal.end(key, end)
        self.ends[key] = end

    def check_allowed(self) -> None:
        """Called before something new is asked of the world.

        Raises:
            NotHere: that is for another process.
        """
        if self.elsewhere:
            self.wanted = True
            raise NotHere("an effect runs where its episode was played")

    @property
    def rewards(self) -> dict[Key, EffectEnd]:
        """What plain rewards returned; see ``remembered``."""
        found = self.ends.items()
        return {key: end for key, end in found if key[0] == REWARD and end.error is None}

    @property
    def asked(self) -> bool:
        """Whether anything was asked of the world, rewards apart."""
        return any(key[0] != REWARD for key in self.ends)

    def remembered(self, key: Key, compute: Callable[[], Any]) -> Any:
        """What a plain function returned or raised, called at once unless it is known.

        The flow waits for it, so there is no order in which it comes.

        Raises:
            TypeError: it returned no JSON value.
        """
        end = self.ends.get(key)
        if end is None:
            try:
                end = EffectEnd(strict_json(compute(), f"the value of {key[1]}"))
            except Exception as error:
                end = EffectEnd(error=error)
            self.end(key, end)
        return end.value()

    def order_of(self, run: RunName) -> Sequence[Group]:
        """The order of a run that was interrupted, as far as it came."""
        return self.orders.get(run, ())

    def deliver(self, run: RunName, keys: Group) -> None:
        """Note what a run gets together, unless it was noted before the interruption."""
        if self.elsewhere:
            return
        number = self._delivered.get(run, 0)
        self._delivered[run] = number + 1
        if number >= len(self.order_of(run)):
            self.journal.deliver(run, keys)

    async def run(
        self,
        key: Key,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        options: EffectOptions,
    ) -> EffectEnd:
        """Run an effect, or wait for a run of it that is under way for another flow.

        It is cancelled once nobody waits for it any more.
        """
        self.check_allowed()
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
    ) -> EffectEnd:
        try:
            result = await _attempts(function, args, options)
            end = EffectEnd(strict_json(result, f"the result of effect {effect_name(function)}"))
        except Exception as error:
            end = EffectEnd(error=error)
        self.end(key, end)
        return end


class NotHere(Exception):
    """Another process has an example's effects."""


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
        await pause_before_retry(attempt)
    raise AssertionError


async def pause_before_retry(attempt: int) -> None:
    """Wait after a failed attempt, longer each time; ``attempt`` counts from 0."""
    await asyncio.sleep(min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS))


async def _once(function: Callable[..., Any], args: tuple[Any, ...], seconds: float) -> Any:
    try:
        return await asyncio.wait_for(_called(function, args), seconds or None)
    except asyncio.TimeoutError as error:
        if not seconds:
            raise
        raise TimeoutError(
            f"effect {effect_name(function)} took longer than {seconds:g} seconds"
        ) from error


async def _called(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(*args)
    result = await asyncio.to_thread(function, *args)
    return await result if inspect.isawaitable(result) else result
