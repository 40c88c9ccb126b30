"""Requests of flows that wait for something else, too, join the engine's work between steps."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.request import Answer, Request
from flowtune_cli.runtime.play import play
from flowtune_cli.runtime.scheduler import Scheduler
from support.fake_engine import EXAMPLE, FakeEngine, FlowTask, run_play, write_letters, writer

NODES = [writer("a", max_new_tokens=50), writer("b", max_new_tokens=3)]
"""Node a takes 50 steps, b takes 3."""


class StepwiseEngine(FakeEngine):
    """An engine whose session takes a step for each token that a request asks for at most.

    Args:
        at_step: called within each step, with its number; may raise.
    """

    def __init__(self, at_step: Any = lambda number: None) -> None:
        super().__init__(write_letters)
        self.at_step = at_step
        self.sessions: list[CountingSession] = []

    def session(self) -> CountingSession:
        self.sessions.append(CountingSession(self))
        return self.sessions[-1]


class CountingSession:
    """See ``StepwiseEngine``.

    Attributes:
        sizes: how many requests each step found.
    """

    def __init__(self, engine: StepwiseEngine) -> None:
        self.engine = engine
        self.open: list[tuple[Any, Future[Answer], int]] = []
        self.steps = 0
        self.sizes: list[int] = []
        self.threads: set[threading.Thread] = set()

    @property
    def busy(self) -> bool:
        return bool(self.open)

    def add(self, request: Request, on_tokens: Any = None) -> Future[Answer]:
        self.open.append((request, Future(), self.steps))
        return self.open[-1][1]

    def step(self) -> None:
        self.steps += 1
        self.threads.add(threading.current_thread())
        self.open = [entry for entry in self.open if not entry[1].cancelled()]
        self.sizes.append(len(self.open))
        for request, future, since in list(self.open):
            if (
                self.steps - since >= request.max_new_tokens
                and future.set_running_or_notify_cancel()
            ):
                future.set_result(self.engine.answer([request])[0])
        self.open = [entry for entry in self.open if not entry[1].done()]
        self.engine.at_step(self.steps)


class Meeting:
    """A tool that ends within the engine's step of a number, which ends when the flow has gone on.

    So a request that the flow makes at once comes between that step and the next, on any machine.
    """

    def __init__(self, step: int) -> None:
        self.number = step
        self._reached, self._gone_on = threading.Event(), threading.Event()

    def at_step(self, number: int) -> None:
        if number == self.number:
            self._reached.set()
            assert self._gone_on.wait(20)

    async def wait(self) -> None:
        await asyncio.to_thread(self._reached.wait, 20)
        self._gone_on.set()


def order_of_ends(engine: StepwiseEngine, flow: Any, **more: Any) -> list[Any]:
    """The questions of two examples, "early" and "late", in the order in which they end."""
    examples = [Example(name, {"question": name}) for name in ("early", "late")]
    task = FlowTask(NODES, flow)
    stream = Scheduler(engine, **more).stream([play(task, each) for each in examples])
    episodes = [episode for _, episode in stream]
    assert all(episode.failure is None for episode in episodes)
    return [episode.result for episode in episodes]


def test_a_late_short_request_is_answered_before_an_early_long_one_ends() -> None:
    meeting = Meeting(5)
    engine = StepwiseEngine(meeting.at_step)

    async def flow(episode: Episode, example: Example) -> Any:
        if example.question == "early":
            await episode.call("a", x=1)
        else:
            await meeting.wait()
            await episode.call("b", x=2)
        return example.question

    assert order_of_ends(engine, flow) == ["late", "early"]
    (session,) = engine.sessions
    # Five steps without it and three with it; the long one takes no more steps than alone.
    assert session.sizes == [1] * 5 + [2] * 3 + [1] * 42
    assert threading.current_thread() not in session.threads


def test_steps_go_on_with_what_was_begun_when_nothing_else_is_waited_for_any_more() -> None:
    meeting = Meeting(2)
    engine = StepwiseEngine(meeting.at_step)

    async def flow(episode: Episode, example: Example) -> Any:
        async def with_tool() -> Any:
            await meeting.wait()
            return [await episode.call("b", x=n) for n in range(3)]

        return await asyncio.gather(episode.call("a", x=1), with_tool())

    episode = run_play(engine, FlowTask(NODES, flow))
    assert episode.result == ["A", ["A"] * 3]
    # Calls of one flow that run side by side are delivered together, so b waits for a once.
    assert engine.sessions[0].sizes == [1] * 2 + [2] * 3 + [1] * 45
    # And what comes later, with nothing outside, is answered by batches.
    assert len(engine.batches) == 4


def test_without_anything_else_to_wait_for_there_are_no_steps() -> None:
    engine = StepwiseEngine()

    async def flow(episode: Episode, example: Example) -> Any:
        return await asyncio.gather(*(episode.call("a", x=n) for n in range(3)))

    assert run_play(engine, FlowTask(NODES, flow)).result == ["A"] * 3
    assert engine.sessions == []
    assert [len(batch) for batch in engine.batches] == [3]


def test_a_call_that_is_cancelled_leaves() -> None:
    meeting = Meeting(4)
    engine = StepwiseEngine(meeting.at_step)

    async def flow(episode: Episode, example: Example) -> Any:
        call = asyncio.ensure_future(episode.call("a", x=1))
        await meeting.wait()
        call.cancel()
        return await episode.call("b", x=2)

    assert run_play(engine, FlowTask(NODES, flow)).result == "A"
    (session,) = engine.sessions
    assert session.sizes == [1] * 4 + [1] * 3
    assert [request.adapter for request in engine.requests] == ["b"]


def test_no_more_requests_are_handed_over_than_are_answered_at_a_time() -> None:
    meeting = Meeting(1)
    engine = StepwiseEngine(meeting.at_step)

    async def flow(episode: Episode, example: Example) -> Any:
        if example.question == "late":
            await meeting.wait()
        await asyncio.gather(*(episode.call("b", x=n) for n in range(4)))
        return example.question

    order_of_ends(engine, flow, batch_requests=3)
    assert max(engine.sessions[0].sizes) == 3


class Stop(Exception):
    pass


@pytest.mark.parametrize("where", ["step", "check", "flow"])
@pytest.mark.parametrize("notebook", [False, True])
def test_an_error_ends_the_run_when_the_step_is_made(where: str, notebook: bool) -> None:
    steps: list[int] = []
    in_step = threading.Lock()

    def at_step(number: int) -> None:
        with in_step:
            steps.append(number)
            if where == "step" and number == 3:
                raise Stop

    def check() -> None:
        assert not in_step.locked()
        if where == "check" and len(steps) == 3:
            raise Stop

    engine = StepwiseEngine(at_step)

    async def flow() -> Any:
        async def tool() -> None:
            while len(steps) < 3:
                await asyncio.sleep(0.001)
            if where == "flow":
                raise Stop
            await asyncio.sleep(600)

        task = FlowTask(NODES, lambda episode, example: episode.call("a", x=1))
        await asyncio.gather(play(task, EXAMPLE), tool())

    def run() -> None:
        with pytest.raises(Stop):
            Scheduler(engine, check=check).run([flow()])

    async def cell() -> None:
        run()

    if notebook:
        asyncio.run(cell())
    else:
        run()
    assert not in_step.locked()
    assert len(steps) >= 3
    assert not [t for t in threading.enumerate() if t.name.startswith("engine")]


def test_nothing_is_computed_while_the_caller_has_a_result() -> None:
    meeting = Meeting(5)
    engine = StepwiseEngine(meeting.at_step)

    async def flow(episode: Episode, example: Example) -> Any:
        if example.question == "early":
            return await episode.call("a", x=1)
        await meeting.wait()
        return await episode.call("b", x=2)

    examples = [Example(name, {"question": name}) for name in ("early", "late")]
    stream = Scheduler(engine).stream([play(FlowTask(NODES, flow), e) for e in examples])
    assert next(stream)[0] == 1
    (session,) = engine.sessions
    steps = session.steps
    assert not any(
        thread.name == "engine_0" and session.steps != steps for thread in session.threads
    )
    assert steps == 8
    assert next(stream)[0] == 0
    assert session.steps == 50
