"""Asks an evaluator to compare two episodes, and records what it asked the model.

An evaluator may wait for anything, as a flow may. What it waits for besides the engine is limited
as effects are: how many at once, how long, how often again; and its judgement is then kept, so that
a run that is resumed gets the same one.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import types
from collections.abc import Coroutine, Generator, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..flow.deviation import Evaluator, EvaluatorCall
from ..flow.effect import EffectEnd, Key
from ..flow.episode import Episode, Failure
from ..flow.errors import FlowtuneError
from ..flow.numbers import is_bool, real_number
from ..flow.request import DecodeRequest, Request
from ..flow.task import Task
from .effects import Effects, NotHere, pause_before_retry
from .event_loop import running_loop
from .scheduler import ask


@dataclass(frozen=True)
class Comparison:
    """What an evaluator said: see ``Deviation`` for the fields."""

    gain: float | None
    calls: tuple[EvaluatorCall, ...]
    failure: Failure | None = None

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """The comparison that ``to_json`` returned."""
        found = json.loads(text)
        calls = (
            EvaluatorCall(
                call["prompt"],
                tuple((answer, logprob) for answer, logprob in call["answers"]),
                call["dropped_tokens"],
            )
            for call in found["calls"]
        )
        failure = Failure(**found["failure"]) if found["failure"] else None
        return cls(found["gain"], tuple(calls), failure)


async def compare(
    evaluator: Evaluator,
    task: Task,
    first: Episode,
    second: Episode,
    *,
    effects: Effects,
    key: Key,
) -> Comparison:
    """By how much the second episode ended better than the first, if the evaluator can tell.

    Args:
        effects: of these episodes.
        key: names this comparison among them.
    """
    known = effects.ends.get(key)
    if known is not None and known.result is not None:
        return Comparison.from_json(known.result)
    limits = running_loop().limits
    for attempt in range(limits.effect_retries + 1):
        judging = _Attempt(evaluator, limits.effect_timeout, effects)
        try:
            value = await judging.run(task, first, second)
        except FlowtuneError:
            raise
        except NotHere as error:
            return Comparison(None, (), Failure.of(error))
        except Exception as error:
            comparison = Comparison(None, tuple(judging.calls), Failure.of(error))
        else:
            comparison = _comparison(evaluator, value, tuple(judging.calls))
            break
        if attempt < limits.effect_retries:
            await pause_before_retry(attempt)
    if judging.waited_outside:
        effects.end(key, EffectEnd(comparison.to_json()))
    return comparison


class _Attempt:
    """One attempt of a comparison.

    It has one of the places of ``engine.effects``, and its time runs, while it does not wait for
    the engine.

    Attributes:
        calls: what it asked the model.
        waited_outside: it has waited for something else than the engine.
    """

    def __init__(self, evaluator: Evaluator, seconds: float, effects: Effects) -> None:
        self.calls: list[EvaluatorCall] = []
        self.waited_outside = False
        self._evaluator = evaluator
        self._effects = effects
        self._seconds = self._left = seconds
        self._loop = running_loop()
        self._task = asyncio.current_task()
        self._at_engine = 0
        self._has_place = False
        self._timer: asyncio.TimerHandle | None = None
        self._timed_out = False

    async def run(self, task: Task, first: Episode, second: Episode) -> Any:
        """What the evaluator returns.

        Raises:
            TimeoutError: it took too long.
            Exception: what it raised.
        """
        compare = self._evaluator.compare
        await self._enter()
        try:
            if not inspect.iscoroutinefunction(compare):
                self.wait_outside()
                value: Any = await asyncio.to_thread(
                    compare, self._ask, task, first.example, first, second
                )
                return await value if inspect.isawaitable(value) else value
            return await _watched(self, compare(self._ask, task, first.example, first, second))
        except asyncio.CancelledError:
            if not self._timed_out:
                raise
            if sys.version_info >= (3, 11) and self._task is not None:
                self._task.uncancel()
            raise TimeoutError(
                f"evaluator '{self._evaluator.name}' took longer than training.effect_timeout ="
                f" {self._seconds:g} seconds"
            ) from None
        finally:
            self._leave()

    def wait_outside(self) -> None:
        """It is about to wait for something else than the engine."""
        self._effects.check_allowed()
        self.waited_outside = True

    async def _ask(self, request: Request) -> Any:
        self._at_engine += 1
        if self._at_engine == 1:
            self._leave()
        try:
            answer = await ask(request)
        finally:
            self._at_engine -= 1
        if not self._at_engine:
            await self._enter()
        self.calls.extend(_calls(request, answer))
        return answer

    async def _enter(self) -> None:
        await self._loop.effects_at_once.acquire()
        self._has_place = True
        if self._seconds:
            self._since = self._loop.time()
            self._timer = self._loop.call_later(max(self._left, 0.0), self._time_out)

    def _leave(self) -> None:
        if self._has_place:
            self._has_place = False
            self._loop.effects_at_once.release()
        if self._timer is not None:
            self._left -= self._loop.time() - self._since
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        self._timed_out = True
        assert self._task is not None
        self._task.cancel()


@types.coroutine
def _watched(attempt: _Attempt, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Await a coroutine, and note whether it waits for anything but the engine."""
    resume, argument = coroutine.send, None
    while True:
        try:
            awaited = resume(argument)
        except StopIteration as stop:
            return stop.value
        try:
            if not attempt._at_engine:
                attempt.wait_outside()
            resume, argument = coroutine.send, (yield awaited)
        except BaseException as error:
            resume, argument = coroutine.throw, error


def _comparison(evaluator: Evaluator, value: Any, calls: tuple[EvaluatorCall, ...]) -> Comparison:
    try:
        return Comparison(None if value is None else _gain(evaluator, value), calls)
    except ValueError as error:
        return Comparison(None, calls, Failure.of(error))


def _gain(evaluator: Evaluator, value: Any) -> float:
    try:
        if is_bool(value):  # True could mean "better", and False would be a tie
            raise ValueError(f"is {value}; it must be a number")
        return real_number(value)
    except ValueError as error:
        raise ValueError(
            f"the gain that evaluator '{evaluator.name}' returned {error}, or None where it cannot"
            " tell"
        ) from None


def _calls(request: Request, answer: Any) -> Iterator[EvaluatorCall]:
    if isinstance(request, DecodeRequest):
        texts = tuple((g.text, g.logprob) for g in answer.generations)
        yield EvaluatorCall(answer.prompt, texts, answer.dropped_tokens)
        return
    found = zip(request.items, answer.prompts, answer.likelihoods, strict=True)
    for (_, completions), prompt, likelihoods in found:
        scores = (likelihood.logprob for likelihood in likelihoods)
        texts = tuple(zip(completions, scores, strict=True))
        yield EvaluatorCall(prompt, texts, answer.dropped_tokens)
