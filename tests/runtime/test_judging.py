"""Evaluators that raise or return nonsense, and the record of what they asked the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flowtune_cli.flow.deviation import EvaluatorCall, Outcome, Trace
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.prompt import Message, Prompt, Segment
from flowtune_cli.flow.request import DecodeRequest, Decoding, ScoreRequest
from support.fake_engine import FakeEngine, FlowTask, run_deviate, write_letters, writer


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
