"""The preferences that deviations make, by rewards and by evaluators."""

from __future__ import annotations

from typing import Any

import pytest

from flowtune_cli.flow.deviation import Deviation, Outcome, prefer
from flowtune_cli.flow.episode import Episode, Step
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import NodeOutput, Response
from support.fake_engine import (
    EXAMPLE,
    FakeEngine,
    FlowTask,
    deviations_of,
    run_deviate,
    write_letters,
    writer,
)

# Evaluators


class Longer:
    """Prefers the episode with the longer result; cannot say if one is empty."""

    name = "longer"

    def __init__(self) -> None:
        self.seen: list[tuple[Any, Any]] = []

    async def compare(
        self, ask: Any, task: Any, example: Example, first: Episode, second: Episode
    ) -> float | None:
        self.seen.append((first.result, second.result))
        if not first.result or not second.result:
            return None
        return float(len(second.result) - len(first.result))


async def echo(episode: Episode, example: Example) -> Any:
    first = await episode.call("a", x=1)
    episode.reward("reward", 1.0)
    return await episode.call("b", x=first)


def test_evaluators_compare_whole_episodes() -> None:
    lengths = {"a:1": ["x", "y", "z"], "b:x": ["12"], "b:y": ["1234"], "b:z": ["1"]}
    engine = FakeEngine(lambda prompt, output: lengths[prompt][output])
    judge = Longer()
    nodes = [writer("a", evaluator="longer", alternatives=2), writer("b", None)]
    trace = run_deviate(engine, FlowTask(nodes, echo), {"a": judge})
    # The reward that was stated after the first call neither judged nor ended the rollouts.
    assert judge.seen == [("12", "1234"), ("12", "1")]
    assert [d.gain for d in trace.deviations] == [2.0, -1.0]
    assert [d.greedy_reward for d in trace.deviations] == [None, None]
    assert [d.rollout and d.rollout.stopped_early for d in trace.deviations] == [False, False]
    assert [(p.chosen.value, p.margin) for p in trace.preferences] == [("y", 2.0), ("x", 1.0)]


def test_an_evaluator_that_cannot_say() -> None:
    judge = Longer()
    engine = FakeEngine(lambda prompt, output: "" if prompt == "b:B" else "AB"[output])
    nodes = [writer("a", None, evaluator="longer"), writer("b", None)]
    trace = run_deviate(engine, FlowTask(nodes, echo), {"a": judge})
    (deviation,) = trace.deviations
    assert deviation.outcome is Outcome.UNDEFINED
    assert deviation.reason == "longer cannot tell"
    assert trace.preferences == []


def test_a_rollout_that_fails_is_not_shown_to_the_evaluator() -> None:
    async def flow(episode: Episode, example: Example) -> str:
        written = await episode.call("a", x=1)
        return {"A": "fine"}[written]

    judge = Longer()
    nodes = [writer("a", None, evaluator="longer")]
    trace = run_deviate(FakeEngine(write_letters), FlowTask(nodes, flow), {"a": judge})
    assert trace.deviations[0].outcome is Outcome.FAILED
    assert judge.seen == []


def test_a_node_that_was_given_no_evaluator_is_named() -> None:
    task = FlowTask([writer("a", None, evaluator="longer")], echo)
    task.nodes_by_name["b"] = writer("b", None)
    with pytest.raises(UsageError, match="node 'a' was given no evaluator: 'longer'"):
        run_deviate(FakeEngine(write_letters), task, {})


# Preferences


def test_each_alternative_makes_its_own_pair() -> None:
    trace = deviations_of({"A": 0.5, "B": 1.0, "C": 0.5, "D": 0.25})
    assert [(p.chosen.value, p.rejected.value, p.margin) for p in trace.preferences] == [
        ("B", "A", 0.5),
        ("A", "D", 0.25),
    ]
    assert [p.alternative for p in trace.preferences] == [1, 3]
    assert all(p.step == 0 and p.node == "a" for p in trace.preferences)
    outputs = trace.episode.steps[0].response.outputs
    assert trace.preferences[0].chosen is outputs[1]
    assert trace.preferences[0].rejected is outputs[0]


@pytest.mark.parametrize(
    ("rewards", "pairs"),
    [
        ({"A": 0.5, "B": 0.75, "C": 1.0, "D": 0.0}, [("C", "A", 0.5)]),
        ({"A": 1.0, "B": 0.25, "C": 0.75, "D": 0.5}, [("A", "C", 0.25)]),
        ({"A": 0.5, "B": 0.5, "C": 0.25}, []),
        ({"A": 0.5, "B": 1.0, "C": 1.0}, [("B", "A", 0.5)]),
        ({"A": 0.5, "B": None, "C": 0.25}, [("A", "C", 0.25)]),
        ({"A": 0.5, "B": None, "C": None}, []),
    ],
)
def test_the_best_alternative_alone_makes_a_pair(
    rewards: dict[str, float | None], pairs: list[tuple[str, str, float]]
) -> None:
    trace = deviations_of(rewards, pairs="best")
    assert [(p.chosen.value, p.rejected.value, p.margin) for p in trace.preferences] == pairs
    assert len(trace.deviations) == len(rewards) - 1


def test_pairs_are_made_step_by_step_whatever_the_order() -> None:
    nodes = [writer("a", pairs="best", alternatives=2), writer("b", alternatives=2)]
    task = FlowTask(nodes, echo)
    episode = Episode(EXAMPLE, task.nodes_by_name)
    outputs = tuple(NodeOutput(value=v, text=v) for v in "ABC")
    for index, name in enumerate("ab"):
        response = Response("", outputs)
        episode.steps.append(Step(index, name, "", response, response.outputs[0]))
    gains = [(1, 2, -3.0), (0, 1, -1.0), (1, 1, 2.0), (0, 2, -0.5)]
    deviations = [
        Deviation(step, "ab"[step], alternative, None, Outcome.TIE, gain=gain)
        for step, alternative, gain in gains
    ]
    made = [
        (p.step, p.chosen.value, p.rejected.value, p.margin)
        for p in prefer(task, episode, deviations)
    ]
    assert made == [(0, "A", "C", 0.5), (1, "A", "C", 3.0), (1, "B", "A", 2.0)]
