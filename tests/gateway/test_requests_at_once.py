"""Requests at once, from threads or another process: what chance decides is told of."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from flowtune_cli.flow.deviation import Trace
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.request import Answer, Request
from flowtune_cli.gateway.client import async_client, client
from flowtune_cli.nodes import Chat
from flowtune_cli.runtime.event_loop import NO_LIMITS
from flowtune_cli.runtime.play import recording_of
from flowtune_cli.runtime.replay import Plan
from flowtune_cli.training.admission.examine import examine
from support.fake_engine import FlowTask, run_deviate, run_play
from support.noisy import NoisyEngine, draw

ADVICE = (
    "Another process, or threads, asked node 'draw' for the same several times. Where equal"
    " requests are sent at once, chance decides which gets which answer: give each a 'seed' of its"
    " own."
)


class Slow(NoisyEngine):
    """As slow as a model, so that what is sent meanwhile is sent at once."""

    def answer(self, requests: list[Request]) -> list[Answer]:
        time.sleep(0.1)
        return super().answer(requests)


class Drafts:
    """Has two drafts written at once in threads, and chooses; which thread is first changes.

    Args:
        seeds: of the two requests, if they have any.
        first: the thread that asks first, for each run of the flow in turn; then the first.
    """

    def __init__(self, seeds: Any = (None, None), first: Any = (0, 1)) -> None:
        self.seeds = seeds
        self.first = list(first)
        nodes = [draw("reward"), Chat(name="choose", reward="reward")]
        self.task = FlowTask(nodes, self.flow)

    async def flow(self, episode: Episode, example: Example) -> Any:
        create: Any = client(episode).chat.completions.create
        first = self.first.pop(0) if self.first else 0
        asked = [threading.Event(), threading.Event()]
        asked[first].set()

        def ask(number: int) -> str:
            assert asked[number].wait(10)
            seed = {} if self.seeds[number] is None else {"seed": self.seeds[number]}
            threading.Timer(0.02, asked[1 - number].set).start()
            got = create(model="draw", messages=[{"role": "user", "content": "write"}], **seed)
            return str(got.choices[0].message.content)

        drafts = await asyncio.gather(*[asyncio.to_thread(ask, number) for number in range(2)])
        shown = [{"role": "user", "content": " | ".join(drafts)}]
        got = await asyncio.to_thread(create, model="choose", messages=shown)
        episode.reward("reward", float(got.choices[0].message.content) % 2)
        return drafts


def test_a_replay_that_mixes_them_up_says_so() -> None:
    drafts = Drafts()
    whole = run_play(NoisyEngine(), drafts.task)
    one, other = whole.result
    assert one != other
    again = run_play(NoisyEngine(), drafts.task, Plan(recording=recording_of(whole)))
    assert again.failure is not None
    assert again.failure.error.startswith("ReplayError: the flow did not replay: step 2, node")
    assert ADVICE in again.failure.error
    assert "episode.effect" not in again.failure.error


def test_with_seeds_of_their_own_they_get_the_same_answers_whichever_is_first() -> None:
    whole, again = (run_play(NoisyEngine(), Drafts((5, 6), [first]).task) for first in (0, 1))
    assert whole.result == again.result
    assert whole.asked_alike == {}
    drafts = Drafts((5, 6), [0, 1, 0, 1, 1, 0])
    assert run_deviate(NoisyEngine(), drafts.task).failures == []


@pytest.mark.parametrize("seeds", [(None, None), (5, 6)])
def test_the_check_warns_of_them(seeds: Any) -> None:
    drafts = Drafts(seeds, [])
    trace: Trace = run_deviate(Slow(), drafts.task)
    found = examine(drafts.task, [trace], [], limits=NO_LIMITS)
    told = [each.advice for each in found if each.code == "equal-requests"]
    assert told == (
        [] if seeds[0] else [f"{ADVICE} Where their order makes a difference, rollouts fail."]
    )


def test_what_differs_when_it_is_played_again_is_explained_by_them() -> None:
    drafts = Drafts(first=[])
    trace = run_deviate(NoisyEngine(), drafts.task)
    assert trace.failures == []
    drafts.first = [1]
    found = examine(drafts.task, [trace], [], limits=NO_LIMITS)
    (different,) = [each for each in found if each.code == "request-differs"]
    assert (different.node, different.advice) == ("choose", ADVICE)


def test_answers_that_are_read_as_they_come_are_told_of() -> None:
    """Different requests at once in threads, and then a call that depends on who was first."""
    orders = [0, 1]

    async def flow(episode: Episode, example: Example) -> Any:
        create: Any = client(episode).chat.completions.create
        got: list[str] = []
        asked, read = threading.Barrier(2), [threading.Event(), threading.Event()]
        read[orders.pop(0)].set()

        def ask(number: int) -> None:
            asked.wait(10)
            message = {"role": "user", "content": f"question {number}"}
            answer = create(model="draw", messages=[message]).choices[0].message.content
            assert read[number].wait(10)
            got.append(f"{number} {answer}")
            read[1 - number].set()

        await asyncio.gather(*[asyncio.to_thread(ask, number) for number in range(2)])
        shown = [{"role": "user", "content": " | ".join(got)}]
        return await asyncio.to_thread(create, model="draw", messages=shown)

    task = FlowTask([Chat(name="draw", reward="reward")], flow)
    whole = run_play(Slow(), task)
    assert whole.failure is None
    assert "in the order of the requests (asyncio.gather)" in str(whole.chance)
    again = run_play(Slow(), task, Plan(recording=recording_of(whole)))
    assert again.failure is not None
    assert again.failure.error.startswith("ReplayError: the flow did not replay: step 2, node")


def test_in_the_flow_s_own_tasks_their_order_is_known() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        create: Any = async_client(episode).chat.completions.create
        asked = {"model": "draw", "messages": [{"role": "user", "content": "write"}]}
        both = await asyncio.gather(create(**asked), create(**asked))
        return [each.choices[0].message.content for each in both]

    whole = run_play(NoisyEngine(), FlowTask([draw("reward")], flow))
    assert whole.failure is None
    assert whole.result[0] != whole.result[1]
    assert (whole.chance, whole.asked_alike) == (None, {})


def test_the_noise_of_a_call_with_a_seed_counts_those_with_the_same_one() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        for seed in (7, None, 8, 7, None):
            more = {} if seed is None else {"seed": seed}
            await episode.call("draw", messages=[{"role": "user", "content": "x"}], **more)

    engine = NoisyEngine()
    run_play(engine, FlowTask([draw()], flow))
    assert [seed[3:] for seed in engine.seeds] == [(0, 7), (0,), (0, 8), (1, 7), (1,)]
