"""Replay of flows whose calls run side by side, and what their steps are credited with."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtune_cli.flow.deviation import Outcome, Trace
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.runtime.deviation import deviate
from flowtune_cli.runtime.play import recording_of
from flowtune_cli.runtime.replay import Plan
from support.concurrent_flows import ConcurrentTask, Program, programs
from support.fake_engine import (
    EXAMPLE,
    FakeEngine,
    FlowTask,
    explored,
    run,
    run_deviate,
    run_play,
    write_letters,
    writer,
)

few = settings(max_examples=60, deadline=None)


def facts(episode: Episode) -> Any:
    steps = [(s.index, s.node, s.prompt_text, s.output, s.concurrent) for s in episode.steps]
    return episode.failure, steps, episode.rewards, episode.result


@few
@given(programs, st.booleans())
def test_a_replay_makes_the_same_calls_and_asks_for_nothing(program: Program, shared: bool) -> None:
    whole = run_play(FakeEngine(), ConcurrentTask(program, shared))
    assert whole.failure is None
    assert [s.index for s in whole.steps] == list(range(len(whole.steps)))
    engine = FakeEngine()
    plan = Plan(recording=recording_of(whole))
    again = run_play(engine, ConcurrentTask(program, shared), plan)
    assert facts(again) == facts(whole)
    assert recording_of(again).deliveries == recording_of(whole).deliveries
    assert engine.requests == []


@few
@given(programs, st.booleans(), st.data())
def test_the_greedy_output_as_a_deviation_changes_nothing(
    program: Program, shared: bool, data: Any
) -> None:
    whole = run_play(FakeEngine(), ConcurrentTask(program, shared))
    step = data.draw(st.sampled_from(whole.steps))
    engine = FakeEngine()
    plan = Plan(recording=recording_of(whole), substitute=(step, 0))
    again = run_play(engine, ConcurrentTask(program, shared), plan)
    assert facts(again) == facts(whole)
    assert engine.requests == []


@few
@given(programs)
def test_a_deviation_changes_nothing_that_does_not_depend_on_it(program: Program) -> None:
    trace = run_deviate(FakeEngine(), ConcurrentTask(program))
    assert trace.failures == []
    asked = {(s.node, s.prompt_text): s.output for s in trace.episode.steps}
    for deviation in trace.deviations:
        assert deviation.rollout is not None
        seen: set[tuple[str, str]] = set()
        for step in deviation.rollout.steps:
            same = asked.get((step.node, step.prompt_text))
            if same is not None and not step.substituted:
                assert step.output.value == same.value
                assert step.recorded or (step.node, step.prompt_text) in seen
            seen.add((step.node, step.prompt_text))


@few
@given(programs, st.booleans())
def test_an_episode_does_not_depend_on_its_batch_mates(program: Program, shared: bool) -> None:
    def traces(**more: int) -> list[Any]:
        task = ConcurrentTask(program, shared)
        examples = [replace(EXAMPLE, id=f"e{n}", inputs={"question": f"q{n}"}) for n in range(3)]
        found = run(
            FakeEngine(),
            *(deviate(task, e, explorations=explored(task), evaluators={}) for e in examples),
            **more,
        )
        return [
            (
                facts(t.episode),
                [(d.step, d.gain, facts(d.rollout)) for d in t.deviations if d.rollout],
            )
            for t in found
        ]

    alone = traces(in_flight=1, batch_requests=1)
    assert traces(in_flight=3, batch_requests=2) == alone
    assert traces(in_flight=64) == alone


# Calls that must be made again


def deviated(flow: Any, **more: Any) -> Trace:
    nodes = [writer("a"), writer("b", None), writer("c", None)]
    return run_deviate(FakeEngine(write_letters), FlowTask(nodes, flow), **more)


def test_a_call_beside_the_deviation_that_shows_something_else_fails_with_both() -> None:
    times = itertools.count()

    async def flow(episode: Episode, example: Example) -> None:
        await asyncio.gather(episode.call("a", x=1), episode.call("b", x=f"run {next(times)}"))
        episode.reward("reward", 1.0)

    (deviation,) = deviated(flow).deviations
    assert deviation.outcome is Outcome.FAILED
    assert "step 1, node 'b', has another prompt" in deviation.reason
    assert "recorded prompt ---\nb:run 0\n--- prompt now ---\nb:run 1" in deviation.reason


def test_a_flow_cannot_swallow_that_it_did_not_replay() -> None:
    times = itertools.count()

    async def flow(episode: Episode, example: Example) -> None:
        with contextlib.suppress(Exception):
            await episode.call("b", x=f"run {next(times)}")
        await episode.call("a", x=1)
        episode.reward("reward", 1.0)

    (deviation,) = deviated(flow).deviations
    assert deviation.outcome is Outcome.FAILED
    assert "step 0, node 'b'" in deviation.reason


def test_what_was_made_after_the_deviation_may_be_left_out_and_is_not_asked_for_twice() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        written = await episode.call("a", x=1)
        same = await episode.call("b", x="same")
        if written == "A":
            await episode.call("c", x="only here")
        episode.reward("reward", float(written == "B"))
        return same

    nodes = [writer("a"), writer("b", None), writer("c", None)]
    engine = FakeEngine(write_letters)
    trace = run_deviate(engine, FlowTask(nodes, flow))
    assert trace.failures == []
    assert trace.deviations[0].gain == 1.0
    assert [r.adapter for r in engine.requests] == ["a", "b", "c"]


def test_a_call_whose_hidden_inputs_differ_is_made_anew() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        written = await episode.call("a", x=1)
        await episode.call("b", x="same", hidden=written)
        episode.reward("reward", 1.0)

    nodes = [writer("a"), writer("b", None)]
    engine = FakeEngine(write_letters)
    run_deviate(engine, FlowTask(nodes, flow))
    assert [r.adapter for r in engine.requests] == ["a", "b", "b"]


def test_calls_that_were_cancelled_are_no_steps() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        task = asyncio.create_task(episode.call("b", x=0))
        await asyncio.sleep(0)
        task.cancel()
        await episode.call("a", x=1)
        episode.target("a", "gold")
        episode.reward("reward", 1.0)

    trace = deviated(flow)
    assert trace.failures == []
    assert [(s.index, s.node) for s in trace.episode.steps] == [(0, "a")]
    assert [t.step for t in trace.episode.targets] == [0]
    assert [d.outcome for d in trace.deviations] == [Outcome.TIE]


# Credit


def test_a_step_beside_others_is_judged_by_the_end() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        async def one(x: int) -> None:
            episode.reward("reward", float(await episode.call("a", x=x) == "B"))

        await asyncio.gather(one(1), one(2))
        await episode.call("b", x="to the end")

    trace = deviated(flow)
    assert [d.gain for d in trace.deviations] == [0.5, 0.5]
    assert [d.rollout and d.rollout.stopped_early for d in trace.deviations] == [False, False]


def test_a_reward_may_name_its_call() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        calls = [episode.call("a", x=x) for x in (1, 2)]
        written = await asyncio.gather(*calls)
        for number, (call, value) in enumerate(zip(calls, written, strict=True)):
            episode.reward("reward", (number + 1.0) * (value == "B"), call=call)
        await episode.call("b", x=written)

    trace = deviated(flow)
    assert [d.gain for d in trace.deviations] == [1.0, 2.0]
    assert [d.rollout and d.rollout.stopped_early for d in trace.deviations] == [True, True]


def test_targets_name_their_call_or_are_refused_where_they_are_ambiguous() -> None:
    async def named(episode: Episode, example: Example) -> None:
        calls = [episode.call("a", x=x) for x in (1, 2)]
        await asyncio.gather(*calls)
        episode.target("a", "gold", call=calls[0])

    async def ambiguous(episode: Episode, example: Example) -> None:
        await asyncio.gather(episode.call("a", x=1), episode.call("a", x=2))
        episode.target("a", "gold")

    async def last(episode: Episode, example: Example) -> None:
        await asyncio.gather(episode.call("a", x=1), episode.call("b", x=2))
        assert episode.last

    assert [t.step for t in run_play(FakeEngine(), FlowTask([writer("a")], named)).targets] == [0]
    for flow, said in [(ambiguous, "say which one is meant"), (last, "episode.last is ambiguous")]:
        failure = run_play(FakeEngine(), FlowTask([writer("a"), writer("b")], flow)).failure
        assert failure is not None
        assert said in failure.error


def test_a_flow_s_own_calls_have_no_chance_to_come_earlier() -> None:
    """One after the other in the episode, and side by side in its rollouts."""
    plays = itertools.count()

    async def flow(episode: Episode, example: Example) -> None:
        calls = [episode.call("a", x=1), episode.call("b", x=2)]
        if next(plays):
            await asyncio.gather(*calls)
        else:
            for each in calls:
                await each
        episode.reward("reward", 1.0)

    trace = run_deviate(FakeEngine(write_letters), FlowTask([writer("a"), writer("b")], flow))
    failed = [d.step for d in trace.deviations if d.outcome is Outcome.FAILED]
    assert failed == [0]
    assert "ReplayError" in trace.failures[0].error


# Some steps of many


async def forty(episode: Episode, example: Example) -> None:
    for n in range(20):
        await episode.call("a", x=n)
        await episode.call("b", x=n)
    episode.reward("reward", 1.0)


@pytest.mark.parametrize(
    ("of_a", "of_all", "steps"), [(0, 0, 40), (3, 0, 23), (0, 5, 5), (3, 5, 5)]
)
def test_alternatives_at_some_steps(of_a: int, of_all: int, steps: int) -> None:
    def tried(seed: int) -> set[int]:
        task = FlowTask([writer("a", deviations=of_a), writer("b")], forty)
        coroutine = deviate(
            task,
            EXAMPLE,
            explorations=explored(task),
            evaluators={},
            seed=seed,
            deviations=of_all,
        )
        return {d.step for d in run(FakeEngine(write_letters), coroutine)[0].deviations}

    assert len(tried(1)) == steps
    assert tried(1) == tried(1)
    assert steps == 40 or tried(1) != tried(2)
