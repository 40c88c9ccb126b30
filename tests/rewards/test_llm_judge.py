"""The LLM judge: sign, position bias, ties, and what it is shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.flow.deviation import Outcome
from flowtune_cli.flow.episode import Episode, Failure
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.request import ScoreRequest
from flowtune_cli.rewards import LLMJudge
from flowtune_cli.runtime.scheduler import ask
from support.fake_engine import EXAMPLE, FakeEngine, FlowTask, run, run_deviate, writer


async def answer(episode: Episode, example: Example) -> Any:
    return {"answer": await episode.call("a", x=1)}


TASK = FlowTask([writer("a", None, evaluator="llm_judge")], answer)


def ended(result: Any, failure: Failure | None = None) -> Episode:
    episode = Episode(EXAMPLE, {})
    episode.result, episode.failure = result, failure
    return episode


def compare(
    engine: FakeEngine, first: Episode, second: Episode, judge: LLMJudge | None = None
) -> float | None:
    judge = judge or LLMJudge()
    return run(engine, judge.compare(ask, TASK, EXAMPLE, first, second))[0]


def judging(quality: Callable[[str], float], bias: float = 0.0) -> FakeEngine:
    """A model whose log-odds of A are the difference in quality, plus a bias for A."""

    def score(prompt: str, letter: str) -> float:
        a = prompt.split("Result A: ")[1].split("\n")[0]
        b = prompt.split("Result B: ")[1].split("\n")[0]
        return quality(a) - quality(b) + bias if letter == "A" else 0.0

    return FakeEngine(score=score)


def test_the_gain_is_positive_when_the_second_is_better() -> None:
    engine = judging(lambda text: 1.0 if "good" in text else 0.0)
    expected = math.tanh(0.5)  # p - (1 - p) with p = sigmoid(1)
    assert compare(engine, ended("bad"), ended("good")) == pytest.approx(expected)
    assert compare(engine, ended("good"), ended("bad")) == pytest.approx(-expected)


@given(st.floats(-50, 50))
def test_a_liking_for_one_letter_cancels(bias: float) -> None:
    engine = judging(lambda text: 0.0, bias)
    assert compare(engine, ended("one"), ended("two"), LLMJudge(tie=1e-9)) == 0.0


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_turning_the_episodes_round_turns_the_sign(better: float, bias: float) -> None:
    engine = judging(lambda text: better if "two" in text else 0.0, bias)
    judge = LLMJudge(tie=0.0)
    gain = compare(engine, ended("one"), ended("two"), judge)
    back = compare(engine, ended("two"), ended("one"), judge)
    assert gain is not None
    assert back == pytest.approx(-gain, abs=1e-12)
    assert -1.0 <= gain <= 1.0


def test_equal_results_tie_without_being_asked() -> None:
    engine = judging(lambda text: 0.0)
    assert compare(engine, ended({"answer": "x"}), ended({"answer": "x"})) == 0.0
    assert engine.batches == []


def test_small_gains_are_ties() -> None:
    engine = judging(lambda text: 0.03 if "two" in text else 0.0)
    gain = math.tanh(0.015)
    assert compare(engine, ended("one"), ended("two"), LLMJudge(tie=0.016)) == 0.0
    assert compare(engine, ended("one"), ended("two"), LLMJudge(tie=0.014)) == pytest.approx(gain)


def test_extreme_odds_do_not_overflow() -> None:
    engine = judging(lambda text: 5000.0 if "two" in text else 0.0)
    assert compare(engine, ended("one"), ended("two")) == pytest.approx(1.0)
    assert compare(engine, ended("two"), ended("one")) == pytest.approx(-1.0)


def test_a_failed_episode_cannot_be_compared() -> None:
    engine = judging(lambda text: 0.0)
    failed = ended(None, Failure("ValueError: x", ""))
    assert compare(engine, failed, ended("one")) is None
    assert compare(engine, ended("one"), failed) is None
    assert engine.batches == []


def test_it_asks_the_base_model_both_ways_round() -> None:
    engine = judging(lambda text: 0.0)
    compare(engine, ended({"answer": "x"}), ended({"answer": "y"}))
    (request,) = engine.requests
    assert isinstance(request, ScoreRequest)
    assert request.adapter is None
    texts = [prompt.text for prompt, _ in request.items]
    assert all("question: why\n\nResult A" in text for text in texts)
    assert 'Result A: {"answer": "x"}\n\nResult B: {"answer": "y"}' in texts[0]
    assert 'Result A: {"answer": "y"}\n\nResult B: {"answer": "x"}' in texts[1]
    assert [completions for _, completions in request.items] == [("A", "B")] * 2
    cut = [
        s.text
        for prompt, _ in request.items
        for m in prompt.messages
        for s in m.segments
        if s.truncatable
    ]
    shown = ["question: why", '{"answer": "x"}', '{"answer": "y"}']
    assert cut == [*shown, shown[0], shown[2], shown[1]]


def test_a_flow_judged_by_it() -> None:
    engine = judging(lambda text: 1.0 if "B" in text else 0.0, bias=0.5)
    engine.write = lambda node, prompt, output: "AB"[output]
    trace = run_deviate(engine, TASK, {"a": LLMJudge()})
    (deviation,) = trace.deviations
    assert deviation.outcome is Outcome.ALTERNATIVE_BETTER
    (preference,) = trace.preferences
    assert (preference.chosen.value, preference.rejected.value) == ("B", "A")
    assert preference.margin == deviation.gain


# What it is shown of the example


def shown(example: Example, judge: LLMJudge | None = None, task: FlowTask = TASK) -> str:
    """The prompt for two results, one and two."""
    engine = FakeEngine(score=lambda prompt, letter: 0.0)
    first, second = ended("one"), ended("two")
    run(engine, (judge or LLMJudge()).compare(ask, task, example, first, second))
    (request,) = engine.requests
    assert isinstance(request, ScoreRequest)
    return request.items[0][0].messages[-1].text


def test_it_is_shown_all_inputs_that_can_be_read_and_not_the_id() -> None:
    inputs = {
        "message": "My lamp is dark.\nHelp!",
        "customer": {"since": 2020, "vip": True},
        "tags": ["lamp"],
        "history": ["x" * 600, "y" * 600],
        "picture": object(),
        "urgent": None,
    }
    assert shown(Example("train-05", inputs, gold="repairs")) == (
        "message:\nMy lamp is dark.\nHelp!\n"
        'customer: {"since": 2020, "vip": true}\n'
        'tags: ["lamp"]\n'
        "urgent: null\n\n"
        'Result A: "one"\n\nResult B: "two"\n\nBetter result (A or B):'
    )


def test_a_task_may_say_what_it_is_shown() -> None:
    class Terse(FlowTask):
        def judge_texts(self, example: Example) -> list[str]:
            return [f"Kurz: {example.question}"]

    task = Terse([writer("a", None, evaluator="llm_judge")], answer)
    assert shown(EXAMPLE, task=task).startswith("Kurz: why\n\nResult A")


def test_a_prompt_of_ones_own() -> None:
    judge = LLMJudge(prompt="{question}? {a} or {b}? {inputs}")
    assert shown(EXAMPLE, judge) == 'why? "one" or "two"? question: why'
    table: Any = {"user": "{a}{b}", "system": "Be fair."}
    assert shown(EXAMPLE, LLMJudge(prompt=table)) == '"one""two"'


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tie": 1.5}, "tie should be from 0 to 1, not 1.5"),
        ({"prompt": "Which? {a}"}, r"prompt does not show \{b\}, a result to compare"),
        ({"prompt": "Which?"}, r"prompt does not show \{a\} and \{b\}"),
    ],
)
def test_options_that_cannot_work(options: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        LLMJudge(**options)


def test_a_likelihood_that_is_no_number_is_no_tie() -> None:
    engine = FakeEngine(score=lambda prompt, letter: float("nan"))
    gain = compare(engine, ended("one"), ended("two"))
    assert gain is not None
    assert math.isnan(gain)
