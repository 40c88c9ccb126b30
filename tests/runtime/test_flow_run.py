"""Flows that are ended before their time: decided, without end, or with a forgotten await."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from flowtune_cli.flow.deviation import Outcome, Trace
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.runtime import flow_run
from flowtune_cli.runtime.event_loop import EpisodeLimits
from flowtune_cli.runtime.play import play
from flowtune_cli.runtime.scheduler import Scheduler
from support.fake_engine import (
    EXAMPLE,
    FakeEngine,
    FlowTask,
    run_deviate,
    run_play,
    write_letters,
    writer,
)

NODES = [writer("a"), writer("b", None)]


def decided_then(rest: Any) -> Trace:
    """A flow that goes on with ``rest`` once the reward of its only deviation is known."""

    async def flow(episode: Episode, example: Example) -> Any:
        written = await episode.call("a", x=1)
        episode.reward("reward", float(written == "B"))
        return await rest(episode, written)

    return run_deviate(FakeEngine(write_letters), FlowTask(NODES, flow))


def check_decided(trace: Trace) -> Episode:
    (deviation,) = trace.deviations
    assert deviation.outcome is Outcome.ALTERNATIVE_BETTER
    assert deviation.rollout is not None
    assert deviation.rollout.stopped_early
    assert deviation.rollout.failure is None
    assert trace.failures == []
    return deviation.rollout


def test_all_tasks_of_a_decided_rollout_are_cancelled() -> None:
    log: list[str] = []

    async def waits(name: str) -> None:
        try:
            await asyncio.sleep(0.02 if name == "A" else 600)
        finally:
            log.append(name)

    async def rest(episode: Episode, written: str) -> None:
        await asyncio.gather(waits(written), waits(written), episode.call("b", x=1))

    check_decided(decided_then(rest))
    assert log == ["A", "A", "B", "B"]


def test_what_a_decided_flow_raises_is_ignored_and_later_calls_raise() -> None:
    log: list[str] = []

    async def rest(episode: Episode, written: str) -> None:
        try:
            await episode.call("b", x=1)
        except BaseException:
            log.append(written)
            try:
                await episode.call("b", x=2)
            except BaseException as error:
                raise ValueError("on the way out") from error

    check_decided(decided_then(rest))
    assert log == ["B"]


@pytest.mark.parametrize("where", ["main", "task"])
def test_a_decided_flow_that_does_not_end_is_left_behind(where: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(flow_run, "GRACE_SECONDS", 0.05)
    going_on = True
    tasks: list[Any] = []

    async def stubborn() -> None:
        while going_on:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    async def rest(episode: Episode, written: str) -> None:
        if where == "task" and written == "B":
            tasks.append(asyncio.create_task(stubborn()))
            await asyncio.sleep(0)
        try:
            await episode.call("b", x=1)
        except asyncio.CancelledError:
            if where == "main":
                await stubborn()
            raise

    began = time.perf_counter()
    monkeypatch.setattr("flowtune_cli.runtime.event_loop.CLOSING_SECONDS", 0.05)
    check_decided(decided_then(rest))
    assert time.perf_counter() - began < 2
    going_on = False


# EpisodeLimits


def limited(flow: Any, **limits: Any) -> Episode:
    scheduler = Scheduler(FakeEngine(write_letters), limits=EpisodeLimits(**limits))
    return scheduler.run([play(FlowTask(NODES, flow), EXAMPLE)])[0]


def test_a_flow_that_calls_without_end_fails_with_the_name_of_the_limit() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        while True:
            try:
                await episode.call("a", x=1)
            except Exception:
                continue

    episode = limited(flow, max_steps=7)
    assert episode.failure is not None
    assert "training.max_steps = 7" in episode.failure.error
    assert len(episode.steps) == 7


def test_as_many_calls_as_the_limit_are_allowed() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        for _ in range(7):
            await episode.call("a", x=1)

    assert limited(flow, max_steps=7).failure is None


def test_a_flow_that_waits_without_end_fails_with_the_limit_and_its_line() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        await episode.call("a", x=1)
        await asyncio.Event().wait()

    episode = limited(flow, episode_timeout=0.02)
    assert episode.failure is not None
    assert "training.episode_timeout = 0.02 seconds" in episode.failure.error
    assert "test_flow_run.py, line" in episode.failure.error
    assert len(episode.steps) == 1


def test_the_engines_time_does_not_count() -> None:
    class Slow(FakeEngine):
        def answer(self, requests: Any) -> Any:
            time.sleep(0.05)
            return super().answer(requests)

    async def flow(episode: Episode, example: Example) -> Any:
        for _ in range(3):
            await asyncio.sleep(0.001)
            await episode.call("a", x=1)

    scheduler = Scheduler(Slow(), limits=EpisodeLimits(episode_timeout=0.1))
    (episode,) = scheduler.run([play(FlowTask(NODES, flow), EXAMPLE)])
    assert episode.failure is None


# A forgotten await


def failure_of(flow: Any) -> str:
    failure = run_play(FakeEngine(write_letters), FlowTask(NODES, flow)).failure
    assert failure is not None
    return failure.error


async def helper() -> str:
    return "text"


def test_a_call_that_was_never_awaited_fails_the_episode_with_its_line() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        if episode.call("a", x=1):
            return "yes"

    error = failure_of(flow)
    assert "a call of node 'a' was not awaited" in error
    assert "test_flow_run.py, line" in error


def test_a_call_that_is_shown_in_a_prompt() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        return await episode.call("b", x=[episode.call("a", x=1)])

    error = failure_of(flow)
    assert "prompt of node 'b' shows in its field '{x}' what was not awaited" in error
    assert "test_flow_run.py, line" in error


def test_a_call_that_is_made_a_text() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        return await episode.call("b", x=f"so: {episode.call('a', x=1)}")

    assert "a call of node 'a' was not awaited" in failure_of(flow)


def test_a_coroutine_in_a_prompt() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        return await episode.call("b", x=helper())

    error = failure_of(flow)
    assert "what was not awaited: helper" in error
    assert "test_flow_run.py, line" in error


def test_messages_in_a_prompt() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        return await episode.call("b", x=[{"role": "user", "content": "hello"}])

    error = failure_of(flow)
    assert "'{x}' a chat message, which would look like Python code" in error
    assert "test_flow_run.py, line" in error
