"""Flows that await anything: tasks, clocks, threads, queues; and the engine meanwhile."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Any

import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.request import Request
from flowtune_cli.runtime import event_loop
from flowtune_cli.runtime.play import play
from flowtune_cli.runtime.scheduler import Scheduler
from support.fake_engine import EXAMPLE, FakeEngine, FlowTask, run, run_play, write_letters, writer

NODES = [writer("a"), writer("b")]


def result_of(flow: Any, engine: FakeEngine | None = None) -> Any:
    episode = run_play(engine or FakeEngine(write_letters), FlowTask(NODES, flow))
    assert episode.failure is None, episode.failure.traceback
    return episode.result


class Spy(FakeEngine):
    """Remembers in which thread it computed."""

    def __init__(self, **more: Any) -> None:
        super().__init__(write_letters, **more)
        self.threads: list[threading.Thread] = []

    def answer(self, requests: list[Request]) -> Any:
        self.threads.append(threading.current_thread())
        return super().answer(requests)


# What a flow may await


def test_gathered_calls_are_one_batch_and_steps_are_in_the_order_of_issue() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        return await asyncio.gather(*(episode.call("a", x=n) for n in range(5)))

    engine = FakeEngine(write_letters)
    episode = run_play(engine, FlowTask(NODES, flow))
    assert episode.result == ["A"] * 5
    assert [len(batch) for batch in engine.batches] == [5]
    assert [s.prompt_text for s in episode.steps] == [f"a:{n}" for n in range(5)]
    assert [s.index for s in episode.steps] == list(range(5))


def test_a_flow_may_sleep_use_threads_queues_and_tasks() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        await asyncio.sleep(0.001)
        queue: asyncio.Queue[str] = asyncio.Queue()
        task = asyncio.create_task(queue.get())  # type: ignore[arg-type]
        named = await asyncio.to_thread(
            lambda: threading.current_thread() is threading.main_thread()
        )
        called = asyncio.create_task(episode.call("a", x=named))
        await queue.put(await called)
        return await asyncio.wait_for(task, 5)

    assert result_of(flow) == "A"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup came with Python 3.11")
def test_task_groups() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined, unused-ignore]
            tasks = [group.create_task(episode.call("a", x=n)) for n in range(3)]
        return [task.result() for task in tasks]

    assert result_of(flow) == ["A"] * 3


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup came with Python 3.11")
def test_a_group_of_one_exception_is_named_by_it() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined, unused-ignore]
            group.create_task(episode.call("a", x=1))
            raise KeyError("mine")

    failure = run_play(FakeEngine(), FlowTask(NODES, flow)).failure
    assert failure is not None
    assert failure.error == "KeyError: 'mine'"


def test_a_stream_over_sockets() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        async def serve(reader: Any, writer: Any) -> None:
            writer.write((await reader.readline()).upper())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(f"{await episode.call('a', x=1)} small\n".encode())
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        server.close()
        return line.decode().strip()

    assert result_of(flow) == "A SMALL"


def test_what_is_bound_to_a_loop_lives_on_from_run_to_run() -> None:
    lock = asyncio.Lock()

    async def flow(episode: Episode, example: Example) -> Any:
        async def one(n: int) -> str:
            async with lock:
                return str(await episode.call("a", x=n))

        return await asyncio.gather(*map(one, range(3)))

    assert [result_of(flow), result_of(flow)] == [["A"] * 3] * 2


# The engine meanwhile


def test_the_engine_computes_in_the_callers_thread_where_nothing_else_is_waited_for() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        return await asyncio.gather(episode.call("a", x=1), episode.call("b", x=1))

    engine = Spy()
    result_of(flow, engine)
    assert set(engine.threads) == {threading.current_thread()}


@pytest.mark.parametrize("tool", ["thread", "clock"])
def test_tools_go_on_while_the_engine_computes_and_late_requests_join_the_next_batch(
    tool: str,
) -> None:
    done = threading.Event()

    class Waits(Spy):
        def answer(self, requests: list[Request]) -> Any:
            # The first batch takes until the tools are done.
            assert done.wait(10)
            return super().answer(requests)

    async def flow(episode: Episode, example: Example) -> Any:
        async def with_tool(n: int) -> str:
            if tool == "clock":
                await asyncio.sleep(0.01)
            else:
                await asyncio.to_thread(time.sleep, 0.01)
            return str(await episode.call("a", x=n))

        async def release() -> None:
            await asyncio.sleep(0.1)
            done.set()

        return await asyncio.gather(episode.call("a", x=0), with_tool(1), with_tool(2), release())

    engine = Waits()
    assert result_of(flow, engine) == ["A", "A", "A", None]
    assert [len(batch) for batch in engine.batches] == [1, 2]
    assert threading.current_thread() not in engine.threads[:1]


def test_an_error_of_the_engine_in_a_thread_ends_the_run() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        return await asyncio.gather(asyncio.sleep(0.05), episode.call("a", x=0))

    with pytest.raises(MemoryError):
        run_play(FakeEngine(fail_at=0), FlowTask(NODES, flow))


def test_episodes_wait_for_their_tools_side_by_side() -> None:
    waiting: list[int] = [0]

    async def flow(episode: Episode, example: Example) -> Any:
        waiting.append(waiting[-1] + 1)
        await asyncio.sleep(0.02)
        waiting.append(waiting[-1] - 1)
        return await episode.call("a", x=1)

    task = FlowTask(NODES, flow)
    run(FakeEngine(), *(play(task, EXAMPLE) for _ in range(8)))
    assert max(waiting) == 8


def test_a_wait_ends_although_the_loop_was_woken_before_it() -> None:
    with event_loop.borrowed_loop(event_loop.NO_LIMITS) as loop:
        done = threading.Event()
        done.set()
        loop.call_soon_threadsafe(lambda: None)
        before = time.monotonic()
        loop.wait(10, until=done.is_set)
        assert time.monotonic() - before < 9


def test_a_run_is_asked_to_stop_while_its_flows_wait(monkeypatch: Any) -> None:
    monkeypatch.setattr("flowtune_cli.runtime.scheduler._CHECK_SECONDS", 0.01)

    class Asked(Exception):
        pass

    def check() -> None:
        raise Asked

    async def flow(episode: Episode, example: Example) -> Any:
        await asyncio.sleep(600)

    with pytest.raises(Asked):
        Scheduler(FakeEngine(), check=check).run([play(FlowTask(NODES, flow), EXAMPLE)])


# Where the caller is itself in a loop


@pytest.mark.parametrize("fails", [False, True])
def test_in_a_notebook(fails: bool) -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        await asyncio.sleep(0.001)
        return await episode.call("a", x=1)

    async def cell() -> Any:
        engine = FakeEngine(write_letters, fail_at=0 if fails else None)
        return run_play(engine, FlowTask(NODES, flow)).result

    if fails:
        with pytest.raises(MemoryError):
            asyncio.run(cell())
    else:
        assert asyncio.run(cell()) == "A"


def test_a_call_from_a_loop_of_the_flows_own_is_explained() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        async def inner() -> Any:
            return await episode.call("a", x=1)

        return await asyncio.to_thread(lambda: asyncio.run(inner()))

    with pytest.raises(Exception, match="an event loop of the flow's own"):
        run_play(FakeEngine(), FlowTask(NODES, flow))


# Ends


def test_what_a_flow_leaves_running_is_cancelled() -> None:
    log: list[str] = []

    async def flow(episode: Episode, example: Example) -> Any:
        async def forever() -> None:
            try:
                await asyncio.sleep(600)
            finally:
                log.append("cancelled")

        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        return task.done()

    assert result_of(flow) is False
    assert log == ["cancelled"]


def test_a_task_that_does_not_end_is_left_behind(monkeypatch: Any) -> None:
    monkeypatch.setattr(event_loop, "CLOSING_SECONDS", 0.05)
    going_on = True

    async def stubborn() -> None:
        while going_on:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    async def fails() -> None:
        await asyncio.sleep(0.001)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run(FakeEngine(), stubborn(), fails())
    going_on = False


def test_a_cancelled_call_asks_for_nothing() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        task = asyncio.create_task(episode.call("a", x=1))
        await asyncio.sleep(0)
        task.cancel()
        return await episode.call("b", x=2)

    engine = FakeEngine(write_letters)
    assert result_of(flow, engine) == "A"
    assert [r.adapter for r in engine.requests] == ["b"]


def test_a_task_that_the_flow_cancelled_itself_fails_its_episode_alone() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        task = asyncio.create_task(episode.call("a", x=1))
        task.cancel()
        return await task

    bad = run_play(FakeEngine(), FlowTask(NODES, flow))
    assert bad.failure is not None
    assert bad.failure.error.startswith("CancelledError")
