"""Evaluators that raise or return nonsense, and the record of what they asked the model."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from flowtune_cli.flow.deviation import EvaluatorCall, Outcome, Trace
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.prompt import Message, Prompt, Segment
from flowtune_cli.flow.request import DecodeRequest, Decoding, ScoreRequest
from flowtune_cli.runtime import effects
from flowtune_cli.runtime.deviation import deviate
from flowtune_cli.runtime.event_loop import NO_LIMITS, EpisodeLimits
from flowtune_cli.runtime.scheduler import Scheduler
from support.fake_engine import (
    EXAMPLE,
    FakeEngine,
    FlowTask,
    explored,
    run_deviate,
    write_letters,
    writer,
)


async def flow(episode: Episode, example: Example) -> str:
    return str(await episode.call("a", x=1))


class Judge:
    """Returns a value, or raises it; first it asks the model the requests."""

    name = "judge"

    def __init__(self, answer: Any, *requests: Any) -> None:
        self.answer, self.requests = answer, requests

    async def compare(self, ask: Any, *of: Any) -> Any:
        for request in self.requests:
            await ask(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def judged_by(judge: Judge, score: Any = lambda prompt, completion: -0.5) -> Trace:
    task = FlowTask([writer("a", None, evaluator="judge")], flow)
    return run_deviate(FakeEngine(write_letters, score), task, {"a": judge})


def test_an_exception_is_an_outcome_with_its_traceback() -> None:
    trace = judged_by(Judge(TimeoutError("no answer")))
    (deviation,) = trace.deviations
    assert deviation.outcome is Outcome.EVALUATOR_FAILED
    assert deviation.reason == "judge: TimeoutError: no answer"
    assert deviation.gain is None
    assert deviation.rollout is not None
    assert deviation.rollout.failure is None
    assert deviation.failure is not None
    assert "in compare" in deviation.failure.traceback
    assert trace.preferences == []
    assert trace.failures == [deviation.failure]
    assert len(trace.runs) == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (float("nan"), "is nan; it must be finite"),
        (float("inf"), "is inf; it must be finite"),
        (1e300, "is 1e+300; it must be from"),
        (True, "is True; it must be a number"),
        (np.bool_(False), "is False; it must be a number"),
        ("better", "is 'better'; it must be a number"),
        ((1.0, 2.0), "is (1.0, 2.0); it must be a number"),
    ],
)
def test_nonsense_is_a_failure_of_the_evaluator(answer: Any, said: str) -> None:
    (deviation,) = judged_by(Judge(answer)).deviations
    assert deviation.outcome is Outcome.EVALUATOR_FAILED
    assert f"the gain that evaluator 'judge' returned {said}" in deviation.reason
    assert "or None where it cannot tell" in deviation.reason


@pytest.mark.parametrize("gain", [2, np.float32(2.0)])
def test_any_number_is_a_gain(gain: Any) -> None:
    (deviation,) = judged_by(Judge(gain)).deviations
    assert (type(deviation.gain), deviation.gain) == (float, 2.0)
    assert deviation.outcome is Outcome.ALTERNATIVE_BETTER


def test_an_evaluator_that_cannot_work_at_all_ends_the_run() -> None:
    with pytest.raises(UsageError, match="no key"):
        judged_by(Judge(UsageError("no key")))


def test_what_it_asked_is_recorded_also_if_it_fails_then() -> None:
    prompt, other = (Prompt((Message("text", (Segment(t),)),), chat=False) for t in ("One", "Two"))
    score = ScoreRequest(None, ((prompt, ("A", "B")), (other, ("A",))))
    decode = DecodeRequest(None, other, 5, decoding=Decoding(groups=2))
    for answer in (1.0, None, ValueError("x")):
        (deviation,) = judged_by(Judge(answer, score, decode)).deviations
        assert deviation.evaluator_calls == (
            EvaluatorCall("<One>", (("A", -0.5), ("B", -0.5)), 2),
            EvaluatorCall("<Two>", (("A", -0.5),), 2),
            EvaluatorCall("<Two>", (("A", -0.0), ("B", -1.0)), 3),
        )


def test_without_an_evaluator_nothing_is_recorded() -> None:
    async def rewarded(episode: Episode, example: Example) -> None:
        episode.reward("reward", float(await episode.call("a", x=1) == "B"))

    trace = run_deviate(FakeEngine(write_letters), FlowTask([writer("a")], rewarded))
    assert [(d.evaluator_calls, d.failure) for d in trace.deviations] == [((), None)]


# Evaluators that wait for the world


class Outside:
    """Waits for something else than the model; ``meter`` counts how many do so at once."""

    name = "outside"

    def __init__(self, wait: Any, *, asks: bool = False) -> None:
        self.wait, self.asks = wait, asks
        self.now = self.most = self.attempts = 0

    async def compare(self, ask: Any, task: Any, example: Example, *of: Episode) -> float:
        if self.asks:
            await ask(ScoreRequest(None, ((PROMPT, ("x",)),)))
        self.attempts += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.wait()
        finally:
            self.now -= 1
        return 1.0


class InThread:
    """A plain function."""

    name = "in thread"

    def compare(self, ask: Any, task: Any, example: Example, *of: Episode) -> float:
        time.sleep(0.05)
        return 1.0


PROMPT = Prompt((Message("user", (Segment("Which?"),)),))


def judged_outside(judge: Any, limits: EpisodeLimits = NO_LIMITS, known: Any = None) -> Trace:
    """An example of one step with six rollouts."""
    task = FlowTask([writer("a", None, evaluator="judge", alternatives=6)], flow)
    coroutine = deviate(
        task, EXAMPLE, explorations=explored(task), evaluators={"a": judge}, effects=known
    )
    engine = FakeEngine(write_letters, lambda prompt, completion: -0.5)
    return Scheduler(engine, limits=limits).run([coroutine])[0]


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize(("at_once", "most"), [(32, 6), (2, 2)])
def test_evaluators_wait_side_by_side_up_to_a_limit(at_once: int, most: int, asks: bool) -> None:
    judge = Outside(lambda: asyncio.sleep(0.02), asks=asks)
    trace = judged_outside(judge, EpisodeLimits(effects=at_once))
    assert {d.outcome for d in trace.deviations} == {Outcome.ALTERNATIVE_BETTER}
    assert judge.most == most


def test_a_plain_function_judges_in_threads() -> None:
    begin = time.monotonic()
    trace = judged_outside(InThread())
    assert {d.outcome for d in trace.deviations} == {Outcome.ALTERNATIVE_BETTER}
    assert time.monotonic() - begin < 6 * 0.05


def test_an_evaluator_that_takes_too_long() -> None:
    trace = judged_outside(Outside(lambda: asyncio.sleep(600)), EpisodeLimits(effect_timeout=0.01))
    assert {d.outcome for d in trace.deviations} == {Outcome.EVALUATOR_FAILED}
    assert "'outside' took longer than training.effect_timeout = 0.01" in trace.deviations[0].reason


def test_its_time_does_not_run_while_it_waits_for_the_model() -> None:
    class Slow(FakeEngine):
        def answer(self, requests: Any) -> Any:
            time.sleep(0.1)
            return super().answer(requests)

    task = FlowTask([writer("a", None, evaluator="judge")], flow)
    judge = Judge(1.0, *[ScoreRequest(None, ((PROMPT, ("x",)),))] * 3)
    coroutine = deviate(task, EXAMPLE, explorations=explored(task), evaluators={"a": judge})
    engine = Slow(write_letters, lambda prompt, completion: -0.5)
    [trace] = Scheduler(engine, limits=EpisodeLimits(effect_timeout=0.05)).run([coroutine])
    assert [d.outcome for d in trace.deviations] == [Outcome.ALTERNATIVE_BETTER]


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_an_evaluator_is_asked_again(retries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "FIRST_PAUSE_SECONDS", 0.001)

    async def fail_at_first() -> None:
        if judge.attempts <= 6 * 2:
            raise ConnectionError(f"attempt {judge.attempts}")

    judge = Outside(fail_at_first)
    trace = judged_outside(judge, EpisodeLimits(effect_retries=retries))
    outcome = Outcome.ALTERNATIVE_BETTER if retries == 2 else Outcome.EVALUATOR_FAILED
    assert {d.outcome for d in trace.deviations} == {outcome}
    assert judge.attempts == 6 * (retries + 1)


@pytest.mark.parametrize("asks", [False, True])
def test_what_the_world_said_is_kept_and_what_the_model_said_is_not(asks: bool) -> None:
    known = effects.Effects()
    judge = Outside(lambda: asyncio.sleep(0.001), asks=asks)
    first = judged_outside(judge, known=known)
    assert len([key for key in known.ends if key[0] == "evaluator"]) == 6
    again = judged_outside(judge, known=known)
    assert judge.attempts == 6
    assert [d.evaluator_calls for d in again.deviations] == [
        d.evaluator_calls for d in first.deviations
    ]
    assert [d.gain for d in again.deviations] == [1.0] * 6

    known = effects.Effects()
    judged_outside(Judge(1.0, ScoreRequest(None, ((PROMPT, ("x",)),))), known=known)
    assert known.ends == {}


def test_a_failure_is_kept_too() -> None:
    async def fail() -> None:
        await asyncio.sleep(0.001)
        raise ConnectionError("no route")

    known = effects.Effects()
    judge = Outside(fail)
    first, again = (judged_outside(judge, known=known).deviations for _ in range(2))
    assert judge.attempts == 6
    assert [d.failure for d in again] == [d.failure for d in first]
    assert {d.reason for d in again} == {"outside: ConnectionError: no route"}
