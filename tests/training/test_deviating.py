"""A mini-batch that several processes play: the same traces, whoever plays what."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtune_cli.config.settings import Settings
from flowtune_cli.flow.deviation import Trace
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.task import Task
from flowtune_cli.learning.peers import ALONE, Peers
from flowtune_cli.runs.batch import BatchRecord, batch_rows
from flowtune_cli.runtime.effects import REWARD
from flowtune_cli.training import deviating
from flowtune_cli.training.deviating import Deviating
from flowtune_cli.training.session import Play, Session
from support.fake_engine import FakeEngine, FlowTask, digest, explored, write_letters, writer
from support.noisy import NoisyEngine, draw
from support.random_flows import RandomTask, programs
from support.thread_peers import on_threads

EXAMPLES = [Example(f"e{number}", {"question": f"q{number}"}) for number in range(5)]


def session_of(task: Task, engine: FakeEngine, evaluators: Any = None, **training: Any) -> Session:
    return Session(
        task,
        Settings(training=training),
        adapters=cast(Any, None),
        engine=cast(Any, engine),
        explorations=explored(task),
        evaluators=evaluators or {},
        optimizers={},
    )


def played(session: Session, peers: Peers = ALONE) -> list[Trace]:
    traces, _ = Deviating(
        session,
        [Play(example) for example in EXAMPLES],
        peers,
        check=lambda: None,
        on_episode=lambda own: None,
        records=False,
    ).traces()
    return traces


def stored(traces: Sequence[Trace]) -> list[Any]:
    return list(batch_rows(BatchRecord(0, list(traces), 0, {}), str, {}))


@given(programs, st.sampled_from([2, 3]))
@settings(max_examples=40, deadline=None)
def test_several_processes_play_what_one_does(program: Any, size: int) -> None:
    """With effects of the episodes, of some rollouts alone, or of none."""
    alone = RandomTask(program)
    expected = stored(played(session_of(alone, FakeEngine())))
    tasks = [RandomTask(program) for _ in range(size)]
    each = on_threads(size, lambda p: played(session_of(tasks[p.rank], FakeEngine()), p))
    for traces in each:
        assert stored(traces) == expected
    runs = [run for task in tasks for run in task.tool_runs]
    assert Counter(runs) == Counter(alone.tool_runs)


async def uneven(episode: Episode, example: Example) -> None:
    """Only the first example has anything to deviate at."""
    if example.id == "e0":
        said = ""
        for _ in range(6):
            said = await episode.call("a", x=said)
        episode.reward("reward", digest(said) % 3)


def test_who_has_nothing_to_do_plays_rollouts_of_others() -> None:
    engines = [FakeEngine() for _ in range(3)]
    task = FlowTask([writer("a")], uneven)
    each = on_threads(3, lambda p: played(session_of(task, engines[p.rank]), p))
    expected = stored(played(session_of(task, alone := FakeEngine())))
    assert [stored(traces) for traces in each] == [expected] * 3
    calls = [len(engine.requests) for engine in engines]
    assert min(calls) > 0
    assert sum(calls) == len(alone.requests)
    assert max(calls) < 0.75 * len(alone.requests)


def test_with_many_examples_rollouts_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deviating, "EXAMPLES_A_PROCESS", 1)
    engines = [FakeEngine() for _ in range(3)]
    task = FlowTask([writer("a")], uneven)
    each = on_threads(3, lambda p: played(session_of(task, engines[p.rank]), p))
    assert [len(engine.requests) for engine in engines][1:] == [0, 0]
    assert stored(each[2]) == stored(played(session_of(task, FakeEngine())))


def test_an_effect_of_a_rollout_runs_where_its_episode_was_played() -> None:
    ran: list[str] = []

    def note(text: str) -> str:
        ran.append(text)
        return text

    async def flow(episode: Episode, example: Example) -> None:
        if example.id == "e0":
            said = ""
            for _ in range(6):
                said += await episode.call("a", x=said)
            if said != "AAAAAA":
                said = await episode.effect(note, said)
            episode.reward("reward", digest(said) % 3)

    task = FlowTask([writer("a")], flow)
    engines = [FakeEngine(write_letters) for _ in range(2)]
    each = on_threads(2, lambda p: played(session_of(task, engines[p.rank]), p))
    together = list(ran)
    ran.clear()
    assert stored(each[0]) == stored(played(session_of(task, FakeEngine(write_letters))))
    assert Counter(together) == Counter(ran)
    assert ran
    assert len(engines[1].requests) > 0, "nothing was moved"


@pytest.mark.parametrize("same", [False, True])
def test_plain_rewards_are_computed_where_rollouts_are_played(same: bool) -> None:
    computed: list[str] = []

    async def flow(episode: Episode, example: Example) -> None:
        if example.id == "e0":
            said = ""
            for _ in range(6):
                said += await episode.call("a", x=said)
            judged = "the same" if same else said

            def value() -> int:
                computed.append(judged)
                return digest(judged) % 3

            effects = cast(Any, episode.runner).effects
            episode.reward("reward", effects.remembered((REWARD, "reward", judged), value))

    task = FlowTask([writer("a")], flow)
    engines = [FakeEngine(write_letters) for _ in range(2)]
    each = on_threads(2, lambda p: played(session_of(task, engines[p.rank]), p))
    together = list(computed)
    computed.clear()
    assert stored(each[0]) == stored(played(session_of(task, FakeEngine(write_letters))))
    assert len(engines[1].requests) > 0, "nothing was moved"
    if same:  # what the episode's own was is known everywhere
        assert together == computed == ["the same"]


class Outside:
    """An evaluator that asks something else than the model."""

    name = "outside"

    def __init__(self, of: str) -> None:
        self.asked: list[str] = []
        self.of = of

    async def compare(self, ask: Any, task: Any, example: Any, first: Any, second: Any) -> float:
        if self.of == "world":
            await asyncio.sleep(0.001)
        self.asked.append(second.steps[-1].output.text)
        return float(digest(self.asked[-1]) % 3 - 1)


@pytest.mark.parametrize("of", ["world", "nothing"])
def test_an_evaluator_asks_the_world_where_the_episode_was_played(of: str) -> None:
    task = FlowTask([writer("a", None, evaluator="outside")], uneven)
    evaluators = [Outside(of) for _ in range(3)]
    each = on_threads(
        3,
        lambda p: played(session_of(task, FakeEngine(), {"a": evaluators[p.rank]}), p),
    )
    alone = Outside(of)
    expected = stored(played(session_of(task, FakeEngine(), {"a": alone})))
    assert [stored(traces) for traces in each] == [expected] * 3
    asked = [evaluator.asked for evaluator in evaluators]
    assert Counter(text for of_one in asked for text in of_one) == Counter(alone.asked)
    assert (not asked[1] and not asked[2]) == (of == "world")


def test_several_endings_are_the_same_elsewhere() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        said = await episode.call("a", x=example.question)
        for _ in range(1 + digest(said) % 3):
            said = await episode.call("draw", x=said)
        episode.reward("reward", digest(said) % 5)

    task = FlowTask([writer("a"), draw("reward", alternatives=2)], flow)

    def rows(peers: Peers = ALONE) -> list[Any]:
        return stored(played(session_of(task, NoisyEngine(), rollouts=3), peers))

    assert on_threads(3, rows) == [rows()] * 3
