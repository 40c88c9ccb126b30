"""Effects: async or in threads, side by side, once, in time, again, and with a history."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.runtime import effects
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


class Meter:
    """Counts how many runs there are at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def __enter__(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *exception: object) -> None:
        self.now -= 1


meter = Meter()


def slow(n: int) -> int:
    with meter:
        time.sleep(0.05)
    return n


async def slow_async(n: int) -> int:
    with meter:
        await asyncio.sleep(0.05)
    return n


@pytest.mark.parametrize("tool", [slow, slow_async])
@pytest.mark.parametrize(("at_once", "least", "most"), [(32, 5, 8), (3, 2, 3), (1, 1, 1)])
def test_tools_of_all_episodes_run_side_by_side_up_to_a_limit(
    tool: Any, at_once: int, least: int, most: int
) -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        return await episode.effect(tool, 1)

    meter.most = 0
    scheduler = Scheduler(FakeEngine(), limits=EpisodeLimits(effects=at_once))
    found = scheduler.run([play(FlowTask([], flow), EXAMPLE) for _ in range(8)])
    # Eight waits that overlap so take less than a quarter of the time of one after the other.
    assert least <= meter.most <= most
    assert [episode.result for episode in found] == [1] * 8


def test_equal_effects_of_rollouts_run_once_also_at_the_same_time() -> None:
    runs: list[str] = []

    async def tool(x: str) -> str:
        runs.append(x)
        await asyncio.sleep(0.02)
        return x

    async def flow(episode: Episode, example: Example) -> Any:
        written = await episode.call("a", x=1)
        if written != "A":
            await episode.effect(tool, "rollouts")
        episode.reward("reward", float(written == "B"))

    trace = run_deviate(FakeEngine(write_letters), FlowTask([writer("a", alternatives=3)], flow))
    assert trace.failures == []
    assert len(trace.deviations) == 3
    assert runs == ["rollouts"]


def test_a_cart_has_what_this_rollout_put_into_it() -> None:
    carts: list[list[str]] = []

    def put(what: str) -> None:
        carts[-1].append(what)

    def get_cart() -> list[str]:
        return list(carts[-1])

    async def flow(episode: Episode, example: Example) -> Any:
        carts.append([])
        written = await episode.call("a", x=1)
        await episode.effect(put, written, stateful=True)
        cart = await episode.effect(get_cart, stateful=True)
        episode.reward("reward", float(cart == ["B"]))
        return cart

    trace = run_deviate(FakeEngine(write_letters), FlowTask([writer("a")], flow))
    assert trace.episode.result == ["A"]
    (deviation,) = trace.deviations
    assert deviation.rollout is not None
    assert deviation.rollout.result == ["B"]


def test_retries_and_their_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "FIRST_PAUSE_SECONDS", 0.001)
    attempts = itertools.count()

    def unreliable(works_at: int) -> int:
        if (attempt := next(attempts)) < works_at:
            raise ConnectionError(f"attempt {attempt}")
        return attempt

    async def flow(episode: Episode, example: Example) -> Any:
        return await episode.effect(unreliable, 2, retries=2)

    assert run_play(FakeEngine(), FlowTask([], flow)).result == 2

    async def in_vain(episode: Episode, example: Example) -> Any:
        return await episode.effect(unreliable, 99, retries=2)

    failure = run_play(FakeEngine(), FlowTask([], in_vain)).failure
    assert failure is not None
    assert failure.error == "ConnectionError: attempt 5"


@pytest.mark.parametrize("by_call", [True, False])
def test_an_effect_that_takes_too_long(by_call: bool) -> None:
    async def forever() -> None:
        await asyncio.sleep(600)

    async def flow(episode: Episode, example: Example) -> Any:
        return await episode.effect(forever, timeout=0.01 if by_call else None)

    limits = EpisodeLimits(effect_timeout=0 if by_call else 0.01)
    (episode,) = Scheduler(FakeEngine(), limits=limits).run([play(FlowTask([], flow), EXAMPLE)])
    assert episode.failure is not None
    assert "forever took longer than 0.01 seconds" in episode.failure.error


def test_a_cancelled_effect_is_not_recorded() -> None:
    seen = effects.Effects()

    async def flow(episode: Episode, example: Example) -> Any:
        task = asyncio.create_task(episode.effect(slow_async, 1))
        await asyncio.sleep(0.005)
        task.cancel()
        return await episode.effect(slow_async, 2)

    assert run_play(FakeEngine(), FlowTask([], flow), effects=seen).result == 2
    assert [end.value() for end in seen.ends.values()] == [2]


def test_the_order_in_which_tools_ended_is_replayed() -> None:
    pauses = iter([0.03, 0.001, 0.001, 0.03])

    def tool(name: str) -> str:
        time.sleep(next(pauses))
        return name

    async def flow(episode: Episode, example: Example) -> Any:
        order: list[str] = []

        async def one(name: str) -> None:
            order.append(await episode.effect(tool, name))
            order.append(await episode.call("b", x=" ".join(order)))

        await asyncio.gather(one("x"), one("y"))
        written = await episode.call("a", x=order)
        episode.reward("reward", float(written == "B"))
        return order

    nodes = [writer("a"), writer("b", None)]
    trace = run_deviate(FakeEngine(write_letters), FlowTask(nodes, flow))
    assert trace.failures == []
    (deviation,) = trace.deviations
    assert deviation.rollout is not None
    assert deviation.rollout.result == trace.episode.result


def test_an_effect_that_was_not_awaited_fails_the_episode() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        episode.effect(slow, 1)

    failure = run_play(FakeEngine(), FlowTask([], flow)).failure
    assert failure is not None
    assert "slow was not awaited" in failure.error
