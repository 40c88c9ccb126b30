"""A run that dies and is resumed gets the same answers from the world, in the same order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.deviation import Outcome
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.programs.rewards import Reward
from flowtune_cli.registry.manager import Registry
from flowtune_cli.training.loop import Stopped
from support.fake_engine import digest, writer
from support.program_files import forget_modules
from support.tiny_training import Run, selected

MakeRun = Callable[..., Run]


class World:
    """Answers each question once in one way, and ever after in another; late ones come first then.

    It counts what it has answered, so what it was asked in vain does not count.
    """

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.first: dict[str, asyncio.Event] = {}

    async def ask(self, question: str) -> str:
        again = self.answered[question] > 0
        about, how = question.rsplit(" ", 1)
        first = self.first.setdefault(f"{about} {again}", asyncio.Event())
        if (how == "slow") != again:
            with contextlib.suppress(asyncio.TimeoutError):  # the other one may not be asked
                await asyncio.wait_for(first.wait(), 0.02)
            for _ in range(20):  # and not by a clock, as a busy machine may stand still
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(0.001)
            first.set()
        self.answered[question] += 1
        return f"{question}: {'another answer' if again else 'one answer'}"

    async def fail(self, question: str) -> str:
        self.answered[question] += 1
        raise ConnectionError(f"{question}, for the {self.answered[question]}. time")


def flow_in(world: World) -> Any:
    async def flow(episode: Episode, example: Example) -> Any:
        draft = await episode.call("draft", x=example.question)
        found: list[str] = []

        async def ask(how: str) -> None:
            found.append(await episode.effect(world.ask, f"{example.id} {draft} {how}"))

        await asyncio.gather(ask("slow"), ask("quick"))
        try:
            await episode.effect(world.fail, f"{example.id} {draft}")
        except ConnectionError as error:
            found.append(str(error))
        answer = await episode.call("answer", x=" ".join(found))
        episode.reward("reward", digest(answer) % 5 / 4)
        return found

    return flow


class Judge:
    """Asks the world which of two episodes is better."""

    name = "judge"

    def __init__(self, world: World) -> None:
        self.world = world

    async def compare(
        self, ask: Any, task: Any, example: Example, first: Episode, second: Episode
    ) -> float:
        answer = await self.world.ask(f"{example.id} {first.result} {second.result}")
        return digest(answer) % 7 - 3.0


def played(run: Run) -> list[Any]:
    return [
        selected(run, f"SELECT {columns} FROM {table} ORDER BY episode, {order}")
        for table, columns, order in [
            ("effects", "*", "rollout, number"),
            ("steps", "episode, rollout, node, output", "rollout, step"),
            ("rewards", "*", "number"),
            ("rollouts", "episode, number, outcome, gain, result", "number"),
        ]
    ]


class Died(Exception):
    """As if the process was killed: nothing is saved."""


@pytest.fixture
def make(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Run]:
    """Makes a run in a world of its own, which is judged by its reward or by the world."""

    def made(judged: bool) -> Run:
        world = World()
        how = ("", {"evaluator": "judge"}) if judged else ("reward", {})

        def nodes() -> list[Any]:
            first = writer("draft", how[0] or None, max_new_tokens=3, **how[1])
            return [first, writer("answer", None, max_new_tokens=3)]

        run = make_run(flow=flow_in(world), nodes=nodes, gate=None, count=4)
        session = run.session

        def with_world() -> Any:
            monkeypatch.setattr(Registry, "make_evaluator", lambda *of: Judge(world))
            return session()

        run.session = with_world  # type: ignore[method-assign]
        return run

    return made


@pytest.mark.parametrize(("judged", "killed"), [(False, True), (False, False), (True, True)])
def test_a_run_that_ended_half_way_goes_on_with_the_same_answers(
    make: Callable[[bool], Run], judged: bool, killed: bool
) -> None:
    whole = make(judged)
    asked = itertools.count()
    whole.train(should_stop=lambda: next(asked) < 0)
    calls = next(asked)
    expected = played(whole)
    assert expected[0]
    assert not whole.directory.journal_path.exists()
    assert {rollout[2] for rollout in expected[3]} > {Outcome.GREEDY_BETTER.value}

    died = 0
    for moment in range(1, calls, max(1, calls // 7)):
        run = make(judged)
        asked = itertools.count()

        def die(asked: Any = asked, moment: int = moment) -> bool:
            if next(asked) == moment:
                if killed:
                    raise Died
                return True
            return False

        try:
            run.train(should_stop=die)
        except (Died, Stopped):
            died += 1
            run.train()
        assert played(run) == expected, f"died at call {moment} of {calls}"
        assert not run.directory.journal_path.exists()
    assert died > 4


FICKLE = """
from collections import Counter
from zlib import crc32
answered = Counter()
def score(example, result):
    answered[str((example, result))] += 1
    if crc32(str(result).encode()) % 9 == 0:
        raise LookupError(f"{result}, for the {answered[str((example, result))]}. time")
    return crc32(str((result, answered[str((example, result))])).encode()) % 5 / 4
"""


@pytest.mark.parametrize("killed", [True, False])
def test_a_plain_reward_that_answers_otherwise_later_is_not_asked_again(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = itertools.count()

    def make() -> Run:
        folder = tmp_path / f"program{next(made)}"
        folder.mkdir()
        (folder / "fickle.py").write_text(FICKLE)
        reward = Reward(f"{folder / 'fickle.py'}:score")
        forget_modules(folder)

        async def flow(episode: Episode, example: Example) -> Any:
            draft = await episode.call("draft", x=example.question)
            await reward.report(episode, {"id": example.id}, draft)
            return draft

        def nodes() -> list[Any]:
            return [writer("draft", "score", max_new_tokens=2, alternatives=2)]

        return make_run(flow=flow, nodes=nodes, gate=None, count=4, max_failures=1.0)

    whole = make()
    asked = itertools.count()
    whole.train(should_stop=lambda: next(asked) < 0)
    calls = next(asked)
    expected = played(whole)
    assert expected[2]
    died = 0
    for moment in range(1, calls, max(1, calls // 7)):
        run = make()
        asked = itertools.count()

        def die(asked: Any = asked, moment: int = moment) -> bool:
            if next(asked) == moment:
                if killed:
                    raise Died
                return True
            return False

        try:
            run.train(should_stop=die)
        except (Died, Stopped):
            died += 1
            run.train()
        assert played(run) == expected, f"died at call {moment} of {calls}"
    assert died > 2
