"""Episodes that are played again to their end, whatever the flow asks."""

from __future__ import annotations

import asyncio
import itertools
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.runtime.event_loop import EpisodeLimits
from flowtune_cli.runtime.second_play import Recorded, play_again
from flowtune_cli.runtime.tolerant_replay import Difference
from support.concurrent_flows import ConcurrentTask, Program, programs
from support.fake_engine import FakeEngine, Flow, FlowTask, run_deviate, run_play, writer


def differences(flow: Flow, names: Sequence[str] = ("a", "b"), **options: Any) -> Any:
    task = FlowTask([writer(name) for name in names], flow)
    recorded = Recorded.of(run_play(FakeEngine(), task))
    return play_again(task, [recorded], **options)[0]


def brief(found: Sequence[Difference]) -> list[tuple[str, Any, Any, Any]]:
    return [(each.what, each.step, each.before, each.now) for each in found]


@settings(max_examples=40, deadline=None)
@given(programs)
def test_a_flow_that_replays_has_no_differences(program: Program) -> None:
    task = ConcurrentTask(program, True)
    trace = run_deviate(FakeEngine(), task)
    recorded = Recorded.of(trace.episode)
    assert play_again(task, [recorded, recorded]) == [[], []]
    assert play_again(task, [pickle.loads(pickle.dumps(recorded))]) == [[]]


def test_each_call_that_differs_is_noted_and_answered_as_before() -> None:
    numbers = itertools.count()

    async def flow(episode: Episode, example: Example) -> None:
        for name in ("a", "b", "a"):
            text = await episode.call(name, x=f"n{next(numbers)}")
        await episode.call("b", x=text)

    assert brief(differences(flow)) == [
        ("a", 0, "a:n0", "a:n3"),
        ("b", 1, "b:n1", "b:n4"),
        ("a", 2, "a:n2", "a:n5"),
    ]


def test_calls_side_by_side_are_told_apart() -> None:
    numbers = itertools.count()

    async def flow(episode: Episode, example: Example) -> None:
        calls = [episode.call("a", x=x) for x in ("one", next(numbers), "three")]
        await asyncio.gather(*calls)

    assert brief(differences(flow)) == [("a", 1, "a:0", "a:1")]


def test_another_order_of_the_same_calls_is_no_other_request() -> None:
    orders = itertools.cycle([("x", "y"), ("y", "x")])

    async def flow(episode: Episode, example: Example) -> Any:
        return {"found": [await episode.call("a", x=x) for x in next(orders)]}

    [found] = differences(flow)
    assert found.what == "result"


def test_more_calls_and_fewer() -> None:
    counts = itertools.cycle([1, 2])

    async def flow(episode: Episode, example: Example) -> None:
        for _ in range(next(counts)):
            await episode.call("a", x="same")

    assert brief(differences(flow)) == [("a", None, None, "a:same")]
    counts = itertools.cycle([2, 1])
    assert brief(differences(flow)) == [("a", 1, "a:same", None)]


def test_the_place_is_the_line_of_the_call() -> None:
    numbers = itertools.count()

    async def flow(episode: Episode, example: Example) -> None:
        await episode.call("a", x=next(numbers))

    [found] = differences(flow)
    assert found.place.startswith(__file__)


class Tool:
    """Answers with what it is given, and remembers it."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def look_up(self, number: int) -> int:
        self.made.append(number)
        return number


def test_effects_are_answered_from_memory() -> None:
    numbers = itertools.count()
    tool = Tool()

    async def flow(episode: Episode, example: Example) -> None:
        found = await episode.effect(tool.look_up, 7)
        other = await episode.effect(tool.look_up, next(numbers))
        await episode.call("a", x=found + other)

    [found] = differences(flow)
    name = f"effect {__name__}.Tool.look_up"
    assert found.place is not None
    assert found.place.startswith(__file__)
    assert (found.what, found.before, found.now) == (name, "[0]", "[1]")
    assert tool.made == [7, 0]


def test_the_effects_of_the_episode_stay_as_they_are() -> None:
    counts = itertools.cycle([1, 2])

    async def flow(episode: Episode, example: Example) -> None:
        for number in range(next(counts)):
            await episode.effect(abs, number)
        await episode.call("a", x=1)

    task = FlowTask([writer("a")], flow)
    recorded = Recorded.of(run_play(FakeEngine(), task))
    before = dict(recorded.effects)
    play_again(task, [recorded])
    assert recorded.effects == before


def test_a_call_that_was_cancelled_is_never_answered() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        late = asyncio.ensure_future(episode.call("b", x=1))
        await asyncio.sleep(0)
        late.cancel()
        await episode.call("a", x=1)

    assert differences(flow) == []


def test_a_flow_that_waits_for_ever_ends_when_the_time_is_up() -> None:
    waits = itertools.cycle([False, True])

    async def flow(episode: Episode, example: Example) -> None:
        await episode.call("a", x=1)
        if next(waits):
            await asyncio.get_running_loop().create_future()

    assert differences(flow, seconds=0.01) is None


def test_whoever_waits_may_end_it() -> None:
    waits = itertools.cycle([False, True])

    async def flow(episode: Episode, example: Example) -> None:
        if next(waits):
            await asyncio.get_running_loop().create_future()

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        differences(flow, check=stop)


def test_limits_hold_here_too() -> None:
    counts = itertools.cycle([2, 5])

    async def flow(episode: Episode, example: Example) -> None:
        for number in range(next(counts)):
            await episode.call("a", x=number)

    [found] = differences(flow, limits=EpisodeLimits(max_steps=2))
    assert found.what == "failure"
    assert "training.max_steps = 2" in found.now


@pytest.mark.parametrize("what", ["result", "rewards", "targets"])
def test_what_is_reported_otherwise(what: str) -> None:
    numbers = itertools.count()

    async def flow(episode: Episode, example: Example) -> Any:
        await episode.call("a", x=1)
        number = next(numbers)
        if what == "rewards":
            episode.reward("r", number)
        if what == "targets":
            episode.target("a", str(number))
        return {"number": number} if what == "result" else {}

    [found] = differences(flow)
    assert found.what == what


def test_other_labels_change_rewards_and_no_request() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        text = await episode.call("a", x=example.question)
        episode.reward("r", float(text == example.gold))
        if example.gold == "shown":
            await episode.call("b", x=example.gold)

    task = FlowTask([writer("a"), writer("b")], flow)
    recorded = Recorded.of(run_play(FakeEngine(), task))
    first, second = play_again(task, [recorded.with_gold("other"), recorded.with_gold("shown")])
    assert first == []
    assert second is not None
    assert brief(second) == [("b", None, None, "b:shown")]
