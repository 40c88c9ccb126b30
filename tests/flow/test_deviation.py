"""Episodes, rollouts and what comes of comparing them, on small flows with known outcomes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from fake_engine import (
    EXAMPLE,
    FakeEngine,
    FlowTask,
    explored,
    run,
    run_deviate,
    run_play,
    writer,
)

from flowtune_cli.exploration import DiverseBeam
from flowtune_cli.flow.deviation import Deviation, Outcome, Trace, deviate, play, prefer
from flowtune_cli.flow.episode import Episode, Plan, Step
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import NodeOutput, Response


def write_letters(prompt: str, output: int) -> str:
    """Greedy is A, the alternatives B, C, ...: what a node was shown does not matter."""
    return chr(ord("A") + output)


def values(rewards: dict[str, float | None]) -> Any:
    """A flow of one call, whose reward is looked up by what the node wrote."""

    async def flow(episode: Episode, example: Example) -> None:
        episode.reward("reward", rewards[await episode.call("a", x=1)])

    return flow


def deviations_of(rewards: dict[str, float | None], **more: Any) -> Trace:
    task = FlowTask([writer("a", alternatives=len(rewards) - 1, **more)], values(rewards))
    return run_deviate(FakeEngine(write_letters), task)


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

    (deviation,) = run_deviate(FakeEngine(), FlowTask([writer("a")], flow)).deviations
    assert deviation.outcome is Outcome.SKIPPED
    assert deviation.reason == "reward is not stated here"


def test_reward_not_stated_in_the_rollout() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        if await episode.call("a", x=1) == "A":
            episode.reward("reward", 1.0)

    trace = run_deviate(FakeEngine(write_letters), FlowTask([writer("a")], flow))
    (deviation,) = trace.deviations
    assert deviation.outcome is Outcome.UNDEFINED
    assert deviation.reason == "reward is not stated in the rollout"
    assert trace.preferences == []


# Early termination


def two_stages(log: list[str]) -> Any:
    async def flow(episode: Episode, example: Example) -> str:
        try:
            found = await episode.call("a", x="question")
            episode.reward("found", float(found == "B"))
            answer = await episode.call("b", x=found)
            episode.reward("answered", float(answer == "B"))
            return await episode.call("c", x=answer)
        finally:
            log.append("closed")

    return flow


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


# Flows that do not replay


def test_another_prompt_on_replay_names_step_node_and_both_prompts() -> None:
    times = itertools.count()

    async def flow(episode: Episode, example: Example) -> None:
        await episode.call("a", x="same")
        await episode.call("b", x=f"run {next(times)}")
        episode.reward("reward", 1.0)

    task = FlowTask([writer("a"), writer("b")], flow)
    first, second = run_deviate(FakeEngine(), task).deviations
    assert first.outcome is Outcome.TIE  # step 1 is behind this deviation: it is not replayed
    assert second.outcome is Outcome.FAILED
    assert second.gain is None
    assert second.rollout is not None
    assert second.rollout.failure is not None
    assert second.reason == second.rollout.failure.error
    assert "ReplayError" in second.reason
    assert "step 1, node 'b'" in second.reason
    assert "--- recorded prompt ---\nb:run 0\n" in second.reason
    assert "--- prompt now ---\nb:run 2" in second.reason
    assert "_check_replay" in second.rollout.failure.traceback


def test_another_node_on_replay_names_both() -> None:
    names = itertools.cycle("ab")

    async def flow(episode: Episode, example: Example) -> None:
        await episode.call(next(names), x="same")
        episode.reward("reward", 1.0)

    (deviation,) = run_deviate(FakeEngine(), FlowTask([writer("a"), writer("b")], flow)).deviations
    assert deviation.outcome is Outcome.FAILED
    assert "step 0 called node 'a' before and calls 'b' now" in deviation.reason
    assert "recorded prompt ---\na:same\n--- prompt now ---\nb:same" in deviation.reason


def test_a_flow_that_ends_too_early_on_replay() -> None:
    times = itertools.count()

    async def flow(episode: Episode, example: Example) -> None:
        await episode.call("a", x="one")
        if next(times) == 0:
            await episode.call("b", x="two")
        episode.reward("reward", 1.0)

    task = FlowTask([writer("a", None), writer("b")], flow)
    trace = run_deviate(FakeEngine(), task)
    (deviation,) = trace.deviations
    assert deviation.outcome is Outcome.FAILED
    assert "ended after 1 calls" in deviation.reason
    assert "its step 1 called node 'b' before" in deviation.reason
    assert "--- recorded prompt ---\nb:two" in deviation.reason
    assert trace.preferences == []


def test_a_plain_replay_that_ends_too_early() -> None:
    lengths = iter([3, 1])

    async def flow(episode: Episode, example: Example) -> None:
        for x in range(next(lengths)):
            await episode.call("a", x=x)

    task = FlowTask([writer("a")], flow)
    whole = run_play(FakeEngine(), task)
    again = run_play(FakeEngine(), task, Plan(replayed=whole.steps))
    assert again.failure is not None
    assert "ended after 1 calls, and its step 1 called node 'a'" in again.failure.error


# Failures


async def fragile(episode: Episode, example: Example) -> str:
    written = await episode.call("a", x=example.id)
    if example.id == "bad":
        raise KeyError("a bug in the flow")
    episode.reward("reward", 1.0)
    return written


def test_an_exception_in_a_flow_fails_that_episode_alone() -> None:
    task = FlowTask([writer("a")], fragile)
    examples = [replace(EXAMPLE, id=id_) for id_ in ("good", "bad", "fine")]
    traces = run(
        FakeEngine(write_letters),
        *(deviate(task, e, explore=explored(task), evaluators={}) for e in examples),
    )
    assert [t.episode.failure is None for t in traces] == [True, False, True]
    failure = traces[1].episode.failure
    assert failure is not None
    assert failure.error == "KeyError: 'a bug in the flow'"
    assert 'raise KeyError("a bug in the flow")' in failure.traceback
    assert "in fragile" in failure.traceback
    assert traces[1].deviations == []
    assert [len(t.deviations) for t in traces] == [1, 0, 1]
    alone = run_deviate(FakeEngine(write_letters), task, example=examples[2])
    assert traces[2].episode.steps == alone.episode.steps
    assert traces[2].preferences == alone.preferences


def test_an_exception_in_a_rollout_fails_that_rollout_alone() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        written = await episode.call("a", x=1)
        if written == "B":
            raise ZeroDivisionError("only B does this")
        episode.reward("reward", ord(written))

    task = FlowTask([writer("a", alternatives=2)], flow)
    trace = run_deviate(FakeEngine(write_letters), task)
    assert trace.episode.failure is None
    assert [d.outcome for d in trace.deviations] == [Outcome.FAILED, Outcome.ALTERNATIVE_BETTER]
    assert trace.deviations[0].reason == "ZeroDivisionError: only B does this"
    assert trace.deviations[0].greedy_reward == ord("A")
    assert trace.deviations[0].gain is None
    assert [p.alternative for p in trace.preferences] == [2]


@pytest.mark.parametrize("inputs", [{"node": "aa", "x": 1}, {"node": "a", "y": 1}])
def test_usage_errors_end_the_run(inputs: dict[str, Any]) -> None:
    async def flow(episode: Episode, example: Example) -> None:
        await episode.call(**inputs)

    with pytest.raises(UsageError, match=r"Did you mean 'a'|asks for the field '\{x\}'"):
        run_play(FakeEngine(), FlowTask([writer("a")], flow))


def test_exceptions_of_the_engine_end_the_run() -> None:
    log: list[str] = []
    nodes = [writer("a", "found"), writer("b", "answered"), writer("c", None)]
    task = FlowTask(nodes, two_stages(log))
    with pytest.raises(MemoryError, match="out of memory"):
        run(FakeEngine(fail_at=1), play(task, EXAMPLE), play(task, EXAMPLE))
    assert log == ["closed"] * 2  # and the flows were closed, not failed


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
    trace = run_deviate(engine, FlowTask(nodes, echo), {"longer": judge})
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
    trace = run_deviate(engine, FlowTask(nodes, echo), {"longer": judge})
    (deviation,) = trace.deviations
    assert deviation.outcome is Outcome.UNDEFINED
    assert deviation.reason == "longer cannot say"
    assert trace.preferences == []


def test_a_rollout_that_fails_is_not_shown_to_the_evaluator() -> None:
    async def flow(episode: Episode, example: Example) -> str:
        written = await episode.call("a", x=1)
        return {"A": "fine"}[written]

    judge = Longer()
    nodes = [writer("a", None, evaluator="longer")]
    trace = run_deviate(FakeEngine(write_letters), FlowTask(nodes, flow), {"longer": judge})
    assert trace.deviations[0].outcome is Outcome.FAILED
    assert judge.seen == []


def test_an_unknown_evaluator_is_named() -> None:
    task = FlowTask([writer("a", None, evaluator="langer")], echo)
    task.nodes["b"] = writer("b", None)
    with pytest.raises(UsageError, match=r"unknown evaluator 'langer'\. Did you mean 'longer'"):
        run_deviate(FakeEngine(), task, {"longer": Longer()})


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
    episode = Episode(EXAMPLE, task.nodes)
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


# Which nodes deviate


@pytest.mark.parametrize(
    "settings",
    [{"learn": "supervised"}, {"learn": "nothing"}, {"alternatives": 0}, {"reward": None}],
)
def test_nodes_that_do_not_learn_from_preferences_do_not_deviate(settings: Any) -> None:
    task = FlowTask([writer("a", **{"reward": "reward", **settings})], values({"A": 1, "B": 0}))
    engine = FakeEngine(write_letters)
    coroutine = deviate(task, EXAMPLE, explore={"a": DiverseBeam()}, evaluators={})
    (trace,) = run(engine, coroutine)
    assert trace.deviations == []
    assert len(engine.requests) == 1


def test_a_node_without_a_strategy_has_no_alternatives() -> None:
    task = FlowTask([writer("a")], values({"A": 1, "B": 0}))
    engine = FakeEngine(write_letters)
    (trace,) = run(engine, deviate(task, EXAMPLE, explore={}, evaluators={}))
    assert trace.deviations == []
    assert engine.exploring == []
