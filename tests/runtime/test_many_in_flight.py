"""Hundreds of episodes at once: what they hold is freed when they end."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.request import Answer, Request
from flowtune_cli.runtime.deviation import deviate
from flowtune_cli.runtime.event_loop import EpisodeLimits
from flowtune_cli.runtime.scheduler import Scheduler
from support.fake_engine import FakeEngine, FlowTask, explored, write_letters, writer

IN_FLIGHT = 256


class Forgetful(FakeEngine):
    """Does not keep what it was asked."""

    def answer(self, requests: list[Request]) -> list[Answer]:
        answers = super().answer(requests)
        self.batches.clear()
        return answers


async def tool(text: str) -> str:
    await asyncio.sleep(0.001)
    return text * 50


async def flow(episode: Episode, example: Example) -> Any:
    found = await asyncio.gather(
        episode.call("a", x=example.id), episode.effect(tool, f"found for {example.id}")
    )
    answer = await episode.call("b", x=found)
    episode.reward("reward", float(answer == "B"))
    return answer


def test_memory_does_not_grow_with_the_number_of_episodes() -> None:
    task = FlowTask([writer("a"), writer("b")], flow)
    strategies = explored(task)
    at_once = most = 0

    async def one(number: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        example = Example(f"e{number}", {"question": "why"}, gold=1)
        trace = await deviate(task, example, explorations=strategies, evaluators={})
        assert trace.failures == []
        assert len(trace.deviations) == 2
        at_once -= 1

    limits = EpisodeLimits(effects=64, episode_timeout=60, effect_timeout=10)
    scheduler = Scheduler(Forgetful(write_letters), IN_FLIGHT, limits=limits)
    held = []
    tracemalloc.start()
    try:
        episodes = (one(number) for number in range(3 * IN_FLIGHT))
        for ended, _ in enumerate(scheduler.stream(episodes), 1):
            if ended in (IN_FLIGHT, 2 * IN_FLIGHT):
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert most == IN_FLIGHT
    assert held[1] < held[0] + 500_000  # what these episodes were is several times as much
