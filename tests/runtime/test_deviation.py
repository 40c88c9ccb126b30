"""How rollouts compare with their episode, where they end, and which nodes have any."""

from __future__ import annotations

from typing import Any

import pytest

from flowtune_cli.exploration import DiverseBeam
from flowtune_cli.flow.deviation import Outcome
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.runtime.deviation import deviate
from support.fake_engine import (
    EXAMPLE,
    FakeEngine,
    FlowTask,
    deviations_of,
    run,
    run_deviate,
    two_stages,
    values,
    write_letters,
    writer,
)

# How rollouts compare


@pytest.mark.parametrize(
    ("greedy", "alternative", "outcome", "gain"),
    [
        (0.25, 1.0, Outcome.ALTERNATIVE_BETTER, 0.75),
        (1.0, 0.5, Outcome.GREEDY_BETTER, -0.5),
        (0.5, 0.5, Outcome.TIE, 0.0),
        (0.0, -2.0, Outcome.GREEDY_BETTER, -2.0),
    ],
)
def test_outcomes(greedy: float, alternative: float, outcome: Outcome, gain: float) -> None:
    (deviation,) = deviations_of({"A": greedy, "B": alternative}).deviations
    assert deviation.outcome is outcome
    assert deviation.gain == gain
    assert (deviation.greedy_reward, deviation.alternative_reward) == (greedy, alternative)
    assert (deviation.step, deviation.node, deviation.alternative) == (0, "a", 1)
    assert deviation.reason == ""


def test_undefined_reward_makes_no_rollout() -> None:
    engine = FakeEngine(write_letters)
    trace = run_deviate(engine, FlowTask([writer("a")], values({"A": None, "B": 1.0})))
    (deviation,) = trace.deviations
    assert deviation.outcome is Outcome.SKIPPED
    assert deviation.rollout is None
    assert deviation.gain is None
    assert deviation.reason == "reward is undefined here"
    assert trace.preferences == []
    assert len(engine.requests) == 1


def test_nothing_is_decoded_for_a_reward_that_is_said_to_be_undefined() -> None:
    async def flow(episode: Episode, example: Example) -> dict[str, Any]:
        episode.undefined("reward")
        value = await episode.call("a", x=0)
        other = await episode.call("b", x=0)
        episode.reward("reward", None)
        episode.reward("other", 1.0)
        return {"value": value + other}

    engine = FakeEngine(write_letters)
    trace = run_deviate(engine, FlowTask([writer("a"), writer("b", reward="other")], flow))
    assert {deviation.node for deviation in trace.deviations} == {"b"}
    assert [request.decoding.outputs for request in engine.requests] == [1, 2]


@pytest.mark.parametrize("greedy", [0.0, 1.0, -1.0])
def test_reward_undefined_in_the_rollout_is_not_read_as_zero(greedy: float) -> None:
    trace = deviations_of({"A": greedy, "B": None})
    (deviation,) = trace.deviations
    assert deviation.outcome is Outcome.UNDEFINED
    assert deviation.gain is None
    assert deviation.alternative_reward is None
    assert deviation.greedy_reward == greedy
    assert deviation.reason == "reward is undefined in the rollout"
    assert deviation.rollout is not None
    assert trace.preferences == []


def test_reward_never_stated() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        episode.reward("reward", 1.0)  # before the step, so it does not judge it
        await episode.call("a", x=1)
        episode.reward("other", 1.0)

    (deviation,) = run_deviate(FakeEngine(write_letters), FlowTask([writer("a")], flow)).deviations
    assert deviation.outcome is Outcome.SKIPPED
    assert deviation.reason == "reward is not reported here"


def test_reward_not_stated_in_the_rollout() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        if await episode.call("a", x=1) == "A":
            episode.reward("reward", 1.0)

    trace = run_deviate(FakeEngine(write_letters), FlowTask([writer("a")], flow))
    (deviation,) = trace.deviations
    assert deviation.outcome is Outcome.UNDEFINED
    assert deviation.reason == "reward is not reported in the rollout"
    assert trace.preferences == []


# Early termination


def test_rollouts_end_when_the_reward_of_their_node_is_known() -> None:
    log: list[str] = []
    nodes = [writer("a", "found"), writer("b", "answered"), writer("c", None)]
    engine = FakeEngine(write_letters)
    trace = run_deviate(engine, FlowTask(nodes, two_stages(log)))

    assert trace.episode.result == "A"
    assert not trace.episode.stopped_early
    rollouts = [d.rollout for d in trace.deviations]
    assert [r and r.stopped_early for r in rollouts] == [True, True]
    assert [r and len(r.steps) for r in rollouts] == [1, 2]
    assert [r and r.result for r in rollouts] == [None, None]
    # Neither rollout needed the engine: its reward was known from what was replayed.
    assert len(engine.requests) == 3
    assert log == ["closed"] * 3
    assert [d.gain for d in trace.deviations] == [1.0, 1.0]


def test_a_reward_stated_last_lets_the_flow_end_by_itself() -> None:
    trace = deviations_of({"A": 0.0, "B": 1.0})
    (deviation,) = trace.deviations
    assert deviation.rollout is not None
    assert not deviation.rollout.stopped_early


def test_an_undefined_reward_ends_the_rollout_too() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        written = await episode.call("a", x=1)
        episode.reward("reward", 1.0 if written == "A" else None)
        await episode.call("b", x=written)

    engine = FakeEngine(write_letters)
    trace = run_deviate(engine, FlowTask([writer("a"), writer("b", None)], flow))
    assert trace.deviations[0].outcome is Outcome.UNDEFINED
    assert len(engine.requests) == 2


def test_a_step_is_judged_by_the_first_statement_after_it() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        for round_ in range(3):
            written = await episode.call("a", x=round_)
            episode.reward("reward", (1 if written == "A" else 3) * 10**round_)

    engine = FakeEngine(write_letters)
    trace = run_deviate(engine, FlowTask([writer("a")], flow))
    assert [d.greedy_reward for d in trace.deviations] == [1, 10, 100]
    assert [d.alternative_reward for d in trace.deviations] == [3, 30, 300]
    assert [d.rollout and len(d.rollout.steps) for d in trace.deviations] == [1, 2, 3]
    assert len(engine.requests) == 3
    assert trace.episode.reward_means() == {"reward": 37.0}


# Which nodes deviate


@pytest.mark.parametrize(
    "settings",
    [{"learn": "supervised"}, {"learn": "nothing"}, {"alternatives": 0}, {"reward": None}],
)
def test_nodes_that_do_not_learn_from_preferences_do_not_deviate(settings: Any) -> None:
    task = FlowTask([writer("a", **{"reward": "reward", **settings})], values({"A": 1, "B": 0}))
    engine = FakeEngine(write_letters)
    coroutine = deviate(task, EXAMPLE, explorations={"a": DiverseBeam()}, evaluators={})
    (trace,) = run(engine, coroutine)
    assert trace.deviations == []
    assert len(engine.requests) == 1


def test_a_node_without_a_strategy_has_no_alternatives() -> None:
    task = FlowTask([writer("a")], values({"A": 1, "B": 0}))
    engine = FakeEngine(write_letters)
    (trace,) = run(engine, deviate(task, EXAMPLE, explorations={}, evaluators={}))
    assert trace.deviations == []
    assert engine.exploring == []
