"""What a flow does with its episode: calls, rewards, targets and effects."""

from __future__ import annotations

import contextlib
import functools
import math
from typing import Any

import pytest

from flowtune_cli.exploration import DiverseBeam, MultiSample
from flowtune_cli.flow.deviation import Outcome
from flowtune_cli.flow.effect import EffectRecord
from flowtune_cli.flow.episode import Episode, RewardEvent, Target
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.request import GREEDY, DecodeRequest
from flowtune_cli.runtime.deviation import deviate
from flowtune_cli.runtime.effects import Effects
from flowtune_cli.runtime.play import play
from flowtune_cli.runtime.replay import Plan
from support.fake_engine import (
    EXAMPLE,
    FakeEngine,
    FlowTask,
    run,
    run_deviate,
    run_play,
    write_letters,
    writer,
)


def empty_episode() -> Episode:
    return Episode(EXAMPLE, {"a": writer("a")})


# Calls


def test_a_call_gives_the_greedy_output_and_records_the_step() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        value = await episode.call("a", x=example.question)
        assert episode.last.output.value == value
        return value

    episode = run_play(FakeEngine(write_letters), FlowTask([writer("a")], flow))
    assert episode.result == "A"
    (step,) = episode.steps
    assert (step.index, step.node, step.prompt_text, step.substituted) == (0, "a", "a:why", False)
    assert step.output is step.response.outputs[0]
    assert step.response.adapter_version == 5


def test_only_nodes_with_a_strategy_explore_and_seeds_name_example_node_and_call() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        for name in "aba":
            await episode.call(name, x=1)

    engine = FakeEngine()
    task = FlowTask([writer("a"), writer("b")], flow)
    run(
        engine,
        play(task, EXAMPLE, plan=Plan(explorations={"a": MultiSample(temperature=2.0)}), seed=9),
    )
    first, second, third = engine.requests
    assert isinstance(first, DecodeRequest)
    assert isinstance(second, DecodeRequest)
    assert isinstance(third, DecodeRequest)
    assert first.decoding == MultiSample(temperature=2.0).decoding(1)
    assert second.decoding == GREEDY
    assert [first.seed, second.seed, third.seed] == [
        (9, "example-1", *which) for which in [("a", 0), ("b", 0), ("a", 1)]
    ]
    assert [first.adapter, second.adapter] == ["a", "b"]


def test_rollouts_keep_the_seeds_of_their_calls_whatever_they_show() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        written = await episode.call("a", x=1)
        if written == "B":
            await episode.call("c", x=1)
        await episode.call("b", x=written)
        episode.reward("reward", 1.0)

    engine = FakeEngine(write_letters)
    task = FlowTask([writer("a"), writer("b", None), writer("c", None)], flow)
    run(engine, deviate(task, EXAMPLE, explorations={"a": DiverseBeam()}, evaluators={}, seed=4))
    seeds = [r.seed for r in engine.requests if isinstance(r, DecodeRequest)]
    assert seeds == [(4, "example-1", node, 0) for node in "abcb"]


# Rewards


def test_reward_means_leave_undefined_statements_out() -> None:
    episode = empty_episode()
    for name, value in [("f1", 1.0), ("f1", None), ("f1", 0.0), ("em", None), ("hit", True)]:
        episode.reward(name, value)
    assert episode.reward_means() == {"f1": 0.5, "em": None, "hit": 1.0}
    assert episode.rewards[0] == RewardEvent("f1", 1.0, 0)
    assert episode.rewards[-1] == RewardEvent("hit", 1.0, 0)


def test_no_rewards_no_means() -> None:
    assert empty_episode().reward_means() == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reward_must_be_finite(value: float) -> None:
    with pytest.raises(ValueError, match="reward 'f1' is"):
        empty_episode().reward("f1", value)


def test_a_reward_that_is_no_number_in_a_rollout_makes_no_preference() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        written = await episode.call("a", x=1)
        episode.reward("reward", 1.0 if written == "A" else math.nan)

    trace = run_deviate(FakeEngine(write_letters), FlowTask([writer("a")], flow))
    assert trace.deviations[0].outcome is Outcome.FAILED
    assert trace.preferences == []


# Targets


def test_a_target_belongs_to_the_latest_call_of_its_node() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        for name in "aab":
            await episode.call(name, x=1)
        episode.target("a", "gold")
        episode.target("b", True)

    episode = run_play(FakeEngine(), FlowTask([writer("a"), writer("b")], flow))
    assert episode.targets == [Target(1, "gold"), Target(2, True)]


def test_a_target_for_a_node_that_was_not_called_fails_that_episode_alone() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        if example.id == "example-1":
            await episode.call("a", x=1)
        episode.target("a", "gold")

    task = FlowTask([writer("a")], flow)
    other = Example("other", {"question": "why"}, gold="because")
    good, bad = run(FakeEngine(), play(task, EXAMPLE), play(task, other))
    assert good.failure is None
    assert bad.failure is not None
    assert bad.failure.error == (
        "ValueError: a target was reported for node 'a', which has not been called yet"
    )


def test_rollouts_leave_targets_out() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        written = await episode.call("a", x=1)
        if written == "A":
            await episode.call("b", x=1)
        episode.target("b", "gold")
        episode.reward("reward", float(written == "B"))

    trace = run_deviate(FakeEngine(write_letters), FlowTask([writer("a"), writer("b", None)], flow))
    assert trace.episode.targets == [Target(1, "gold")]
    (deviation,) = trace.deviations
    # It did not call b, and is no failure for that.
    assert deviation.outcome is Outcome.ALTERNATIVE_BETTER
    assert deviation.rollout is not None
    assert deviation.rollout.targets == []


# Effects


class Tool:
    """Counts its runs; each result tells which run it was."""

    def __init__(self) -> None:
        self.runs: list[Any] = []
        self.answer: Any = None

    def search(self, *args: Any) -> list[Any]:
        self.runs.append(args)
        return [len(self.runs), *args]

    def get(self) -> Any:
        return self.answer

    def divide(self, x: float, y: float) -> float:
        return x / y

    def unreliable(self) -> str:
        self.runs.append(())
        if len(self.runs) == 1:
            raise ConnectionError("no route")
        return "worked"


def test_effects_are_told_apart_by_function_arguments_and_occurrence() -> None:
    effects, tool = Effects(), Tool()

    async def first(episode: Episode, example: Example) -> Any:
        arguments: list[Any] = [("x",), ("y",), ("x",), ({"k": [1, None]}, 2)]
        return [await episode.effect(tool.search, *args) for args in arguments]

    async def again(episode: Episode, example: Example) -> Any:
        found = [await episode.effect(tool.search, x) for x in "xxyx"]
        return [*found, await episode.effect(len, "x")]

    tasks = FlowTask([], first), FlowTask([], again)
    whole, other = (run_play(FakeEngine(), task, effects=effects) for task in tasks)
    assert whole.result == [[1, "x"], [2, "y"], [3, "x"], [4, {"k": [1, None]}, 2]]
    assert other.result == [[1, "x"], [3, "x"], [2, "y"], [5, "x"], 1]
    assert len(tool.runs) == 5


def test_rollouts_get_recorded_results_and_run_others_anew() -> None:
    tool = Tool()

    async def flow(episode: Episode, example: Example) -> Any:
        first = await episode.effect(tool.search, "start")
        written = await episode.call("a", x=first)
        then = await episode.effect(tool.search, written)
        answer = await episode.call("b", x=then)
        episode.reward("reward", float(written == "B"))
        return [first, then, answer]

    task = FlowTask([writer("a", alternatives=2), writer("b", None)], flow)
    trace = run_deviate(FakeEngine(write_letters), task)
    assert tool.runs == [("start",), ("A",), ("B",), ("C",)]
    assert trace.episode.result == [[1, "start"], [2, "A"], "A"]
    results = [d.rollout and d.rollout.result for d in trace.deviations]
    assert results == [[[1, "start"], [3, "B"], "A"], [[1, "start"], [4, "C"], "A"]]


def test_a_flow_may_change_what_an_effect_gave_it() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        hits = await episode.effect(Tool().search, "x")
        await episode.call("a", x=hits)
        hits.clear()
        await episode.call("b", x=hits)
        episode.reward("reward", 1.0)

    trace = run_deviate(FakeEngine(), FlowTask([writer("a"), writer("b")], flow))
    assert [d.outcome for d in trace.deviations] == [Outcome.TIE, Outcome.TIE]
    assert trace.episode.steps[0].prompt_text == "a:1\nx"


def test_an_exception_of_a_tool_is_replayed() -> None:
    tool = Tool()

    async def flow(episode: Episode, example: Example) -> Any:
        try:
            found = await episode.effect(tool.unreliable)
        except ConnectionError as error:
            found = f"{error}, then {await episode.effect(tool.unreliable)}"
        await episode.call("a", x=found)
        episode.reward("reward", 1.0)
        return found

    trace = run_deviate(FakeEngine(write_letters), FlowTask([writer("a")], flow))
    assert len(tool.runs) == 2
    assert trace.episode.result == "no route, then worked"
    (deviation,) = trace.deviations
    assert deviation.outcome is Outcome.TIE
    assert deviation.rollout is not None
    assert deviation.rollout.result == trace.episode.result


@pytest.mark.parametrize("argument", [object(), {1, 2}, b"bytes"])
def test_arguments_of_effects_must_be_json(argument: Any) -> None:
    async def flow(episode: Episode, example: Example) -> None:
        await episode.effect(str, argument)

    failure = run_play(FakeEngine(), FlowTask([], flow)).failure
    assert failure is not None
    assert "the arguments of effect builtins.str[0]" in failure.error


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (b"x", "the result of effect {name} is a bytes, and must be a JSON value"),
        ({"hits": [1, object()]}, "the result of effect {name}['hits'][1] is a object"),
        ({1: "a"}, "the result of effect {name} has the key 1, and the keys of a JSON object"),
    ],
)
def test_results_of_effects_must_be_json(result: Any, said: str) -> None:
    tool = Tool()
    tool.answer = result

    async def flow(episode: Episode, example: Example) -> None:
        await episode.effect(tool.get)

    failure = run_play(FakeEngine(), FlowTask([], flow)).failure
    assert failure is not None
    assert said.format(name=f"{__name__}.Tool.get") in failure.error


def test_a_result_is_the_same_at_first_as_when_it_is_replayed() -> None:
    tool = Tool()
    tool.answer = {"b": (1, 2), "a": 0.5}

    async def flow(episode: Episode, example: Example) -> Any:
        found = await episode.effect(tool.get)
        await episode.call("a", x=str(found))
        episode.reward("reward", 1.0)
        return found

    trace = run_deviate(FakeEngine(write_letters), FlowTask([writer("a")], flow))
    assert trace.episode.result == {"b": [1, 2], "a": 0.5}
    assert list(trace.episode.result) == ["b", "a"]
    (deviation,) = trace.deviations
    assert deviation.outcome is Outcome.TIE


def test_a_lambda_is_known_by_what_it_uses() -> None:
    tool = Tool()

    async def flow(episode: Episode, example: Example) -> Any:
        query = await episode.call("a", x=1)
        by_lambda = await episode.effect(lambda: tool.search(query))
        by_partial = await episode.effect(functools.partial(tool.search, query))
        episode.reward("reward", float(query == "B"))
        return [by_lambda[1], by_partial[1]]

    trace = run_deviate(FakeEngine(write_letters), FlowTask([writer("a")], flow))
    assert trace.episode.result == ["A", "A"]
    (deviation,) = trace.deviations
    assert deviation.rollout is not None
    assert deviation.rollout.result == ["B", "B"]


def test_lambdas_of_other_code_are_others() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        return [await episode.effect(each) for each in (lambda: 1, lambda: 2, lambda x=3: x)]

    effects = Effects()
    tasks = FlowTask([], flow), FlowTask([], flow)
    found = [run_play(FakeEngine(), task, effects=effects).result for task in tasks]
    assert found == [[1, 2, 3]] * 2
    assert len(effects.ends) == 3


def test_effects_are_recorded_with_their_place() -> None:
    tool = Tool()

    async def flow(episode: Episode, example: Example) -> None:
        await episode.effect(tool.search, "start")
        written = await episode.call("a", x=1)
        await episode.effect(tool.search, written)
        with contextlib.suppress(ZeroDivisionError):
            await episode.effect(tool.divide, 1, 0)
        episode.reward("reward", float(written == "B"))

    trace = run_deviate(FakeEngine(write_letters), FlowTask([writer("a")], flow))
    name = f"{__name__}.Tool."
    error = "ZeroDivisionError: division by zero"
    assert trace.episode.effects == [
        EffectRecord(0, f"{name}search", '["start"]', '[1, "start"]', None),
        EffectRecord(1, f"{name}search", '["A"]', '[2, "A"]', None),
        EffectRecord(1, f"{name}divide", "[1, 0]", None, error),
    ]
    (deviation,) = trace.deviations
    assert deviation.rollout is not None
    assert deviation.rollout.effects == [
        EffectRecord(0, f"{name}search", '["start"]', '[1, "start"]', None, again=True),
        EffectRecord(1, f"{name}search", '["B"]', '[3, "B"]', None),
        EffectRecord(1, f"{name}divide", "[1, 0]", None, error, again=True),
    ]


def test_episodes_do_not_share_effects() -> None:
    tool = Tool()

    async def flow(episode: Episode, example: Example) -> Any:
        return await episode.effect(tool.search)

    task = FlowTask([], flow)
    first, second = run(FakeEngine(), play(task, EXAMPLE), play(task, EXAMPLE))
    assert [first.result, second.result] == [[1], [2]]


def test_a_flow_without_calls() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        episode.reward("reward", 1.0)
        return {"done": True}

    engine = FakeEngine()
    task = FlowTask([writer("a")], flow)
    (episode,) = run(engine, play(task, EXAMPLE, plan=Plan(explorations={"a": DiverseBeam()})))
    assert (episode.steps, episode.result, engine.batches) == ([], {"done": True}, [])
