"""A time limit counts no second in which a node is waited for."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.programs.clock import TimeLimit
from support.fake_engine import FakeEngine, FlowTask, run_play, writer


class Slow(FakeEngine):
    def answer(self, requests: Any) -> Any:
        time.sleep(0.4)
        return super().answer(requests)


def expired(seconds: float, asleep: float, calls: int) -> bool:
    """Whether the time is up, after so many calls of 0.4 seconds and a sleep after each."""
    told: list[bool] = []

    async def flow(episode: Episode, example: Example) -> bool:
        with TimeLimit(episode, seconds, lambda: told.append(True)) as limit:
            for number in range(calls):
                await asyncio.gather(episode.call("a", x=number), episode.call("a", x="and"))
                await asyncio.sleep(asleep)
        await asyncio.sleep(0.3)
        assert told == [True] * limit.expired
        return limit.expired

    episode = run_play(Slow(), FlowTask([writer("a")], flow))
    assert episode.failure is None, episode.failure
    result: bool = episode.result
    return result


def test_nodes_take_no_time() -> None:
    assert not expired(0.3, 0.0, calls=2)


def test_all_else_does_and_it_adds_up() -> None:
    assert expired(0.3, 0.2, calls=2)


def test_no_limit() -> None:
    assert not expired(0.0, 0.2, calls=2)
