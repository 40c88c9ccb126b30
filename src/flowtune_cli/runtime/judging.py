"""Asks an evaluator to compare two episodes, and records what it asked the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..flow.deviation import Evaluator, EvaluatorCall
from ..flow.episode import Episode, Failure
from ..flow.errors import FlowtuneError
from ..flow.numbers import is_bool, real_number
from ..flow.request import DecodeRequest, Request
from ..flow.task import Task
from .scheduler import ask


@dataclass(frozen=True)
class Comparison:
    """What an evaluator said: see ``Deviation`` for the fields."""

    gain: float | None
    calls: tuple[EvaluatorCall, ...]
    failure: Failure | None = None


async def compare(evaluator: Evaluator, task: Task, first: Episode, second: Episode) -> Comparison:
    """By how much the second episode ended better than the first, if the evaluator can tell."""
    calls: list[EvaluatorCall] = []

    async def recording(request: Request) -> Any:
        answer = await ask(request)
        calls.extend(_calls(request, answer))
        return answer

    try:
        value = await evaluator.compare(recording, task, first.example, first, second)
        gain = None if value is None else _gain(evaluator, value)
    except FlowtuneError:
        raise
    except Exception as error:
        return Comparison(None, tuple(calls), Failure.of(error))
    return Comparison(gain, tuple(calls))


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
