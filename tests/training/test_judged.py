"""Which of two whole flows an evaluator prefers, example by example."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from flowtune_cli.flow.example import Example
from flowtune_cli.runtime.scheduler import Scheduler
from flowtune_cli.training.judged import judge
from flowtune_cli.training.session import Session
from support.fake_engine import FakeEngine, FlowTask

EXAMPLES = [Example(f"e{number}", {"question": "why"}) for number in range(40)]


def session() -> Session:
    engine = FakeEngine()
    made = SimpleNamespace(
        task=FlowTask([], cast(Any, None)),
        scheduler=lambda check: Scheduler(engine, check=check),
        engine=SimpleNamespace(forget=lambda: None),
    )
    return cast(Session, made)


class Evaluator:
    """It says what ``gain`` makes of the two results."""

    name = "scripted"

    def __init__(self, gain: Any) -> None:
        self.gain = gain
        self.asked: list[str] = []

    def compare(self, ask: Any, task: Any, example: Example, first: Any, second: Any) -> Any:
        self.asked.append(example.id)
        return self.gain(first.result, second.result)


def judged(gain: Any, first: dict[int, Any], second: dict[int, Any]) -> tuple[Any, list[str]]:
    evaluator = Evaluator(gain)
    gains, failures = judge(session(), cast(Any, evaluator), EXAMPLES, first, second)
    assert failures == []
    return gains, evaluator.asked


def test_an_evaluator_that_likes_a_place_favours_no_flow() -> None:
    flows = dict.fromkeys(range(40), "a"), dict.fromkeys(range(40), "b")
    gains, asked = judged(lambda first, second: 1, *flows)
    assert len(asked) == 40
    assert 10 <= sum(gain > 0 for gain in gains.values()) <= 30
    assert judged(lambda first, second: 1, *flows)[0] == gains  # each time the same


def test_one_that_looks_at_results_says_the_same_in_any_order() -> None:
    first = {number: number % 3 for number in range(40)}
    second = {number: number % 5 for number in range(40)}
    gains, _ = judged(lambda one, other: other - one, first, second)
    assert gains == {number: second[number] - first[number] for number in range(40)}


def test_equal_results_are_alike_and_nobody_is_asked() -> None:
    gains, asked = judged(lambda first, second: 1, {0: "a", 1: "b"}, {0: "a", 1: "c", 2: "d"})
    assert asked == ["e1"]
    assert gains[0] == 0.0
    assert gains.keys() == {0, 1}
