"""Flows that do not replay, flows that raise, and engines that do."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from flowtune_cli.flow.deviation import Outcome
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.runtime.deviation import deviate
from flowtune_cli.runtime.play import play, recording_of
from flowtune_cli.runtime.replay import Plan
from support.fake_engine import (
    EXAMPLE,
    FakeEngine,
    FlowTask,
    explored,
    run,
    run_deviate,
    run_play,
    two_stages,
    write_letters,
    writer,
)

# Flows that do not replay


def test_another_prompt_on_replay_names_step_node_and_both_prompts() -> None:
    times = itertools.count()

    async def flow(episode: Episode, example: Example) -> None:
        await episode.call("a", x="same")
        await episode.call("b", x=f"run {next(times)}")
        episode.reward("reward", 1.0)

    task = FlowTask([writer("a"), writer("b")], flow)
    first, second = run_deviate(FakeEngine(write_letters), task).deviations
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
    assert "in _recorded" in second.rollout.failure.traceback


def test_a_replayed_step_before_the_deviation_is_checked_too() -> None:
    prompts = iter(["first", "again"])

    async def flow(episode: Episode, example: Example) -> None:
        await episode.call("a", x=next(prompts))
        await episode.call("b", x="same")
        episode.reward("reward", 1.0)

    task = FlowTask([writer("a", None), writer("b")], flow)
    (deviation,) = run_deviate(FakeEngine(write_letters), task).deviations
    assert deviation.outcome is Outcome.FAILED
    assert "step 0, node 'a'" in deviation.reason
    assert "recorded prompt ---\na:first\n--- prompt now ---\na:again" in deviation.reason


def test_another_node_on_replay_names_both() -> None:
    names = itertools.cycle("ab")

    async def flow(episode: Episode, example: Example) -> None:
        await episode.call(next(names), x="same")
        episode.reward("reward", 1.0)

    (deviation,) = run_deviate(
        FakeEngine(write_letters), FlowTask([writer("a"), writer("b")], flow)
    ).deviations
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
    trace = run_deviate(FakeEngine(write_letters), task)
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
    again = run_play(FakeEngine(), task, Plan(recording=recording_of(whole)))
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
        *(deviate(task, e, explorations=explored(task), evaluators={}) for e in examples),
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
