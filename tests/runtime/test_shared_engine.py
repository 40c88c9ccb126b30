"""One engine for requests that come from any thread: they share steps, and fail alone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.flow.prompt import Message, Prompt, Segment
from flowtune_cli.flow.request import DecodeRequest
from flowtune_cli.runtime.scheduler import Scheduler, ask
from flowtune_cli.runtime.shared_engine import SharedEngine
from flowtune_cli.testing import ScriptedEngine
from support.stepping_engine import SteppingEngine


def request(text: str) -> DecodeRequest:
    return DecodeRequest("node", Prompt((Message("text", (Segment(text),)),), chat=False), 50)


@pytest.fixture
def engine() -> SteppingEngine:
    return SteppingEngine(lambda node, prompt, output: f"to {prompt} I say yes")


@pytest.fixture
def shared(engine: SteppingEngine) -> Iterator[SharedEngine]:
    made = SharedEngine(engine)
    yield made
    engine.go()
    made.close()


def until(condition: Callable[[], Any]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it has not come to pass")


def text(answer: Any) -> str:
    return str(answer.generations[0].text)


def test_requests_of_threads_and_of_flows_share_steps(
    engine: SteppingEngine, shared: SharedEngine
) -> None:
    engine.hold()
    found: dict[str, str] = {}

    def alone(name: str) -> None:
        found[name] = text(shared.add(request(name)).result(20))

    async def flow(name: str) -> None:
        found[name] = text(await ask(request(name)))

    threads = [threading.Thread(target=alone, args=(name,)) for name in "ab"]
    threads.append(threading.Thread(target=Scheduler(shared).run, args=([flow(n) for n in "cd"],)))
    for thread in threads:
        thread.start()
    until(lambda: len(shared._open) >= 3)
    engine.go()
    for thread in threads:
        thread.join(20)
    assert found == {name: f"to {name} I say yes" for name in "abcd"}
    assert max(engine.rows) >= 3


def test_tokens_are_told_as_they_come(engine: SteppingEngine, shared: SharedEngine) -> None:
    told: list[str] = []
    future = shared.add(request("a"), lambda number, ids: told.append(engine.decode(ids)))
    assert text(future.result(20)) == "to a I say yes"
    assert told == ["to", "a", "I", "say", "yes"]


def test_an_error_is_that_of_those_who_asked(engine: SteppingEngine, shared: SharedEngine) -> None:
    engine.failing = MemoryError("too much")
    with pytest.raises(MemoryError, match="too much"):
        shared.add(request("a")).result(20)
    until(lambda: shared.failure is not None)
    assert text(shared.add(request("b")).result(20)) == "to b I say yes"
    until(lambda: shared.failure is None)


def test_an_error_of_one_flow_leaves_the_others(
    engine: SteppingEngine, shared: SharedEngine
) -> None:
    ended: list[str] = []

    async def flow(name: str) -> None:
        try:
            ended.append(text(await ask(request(name))))
        except MemoryError as error:
            ended.append(str(error))
            ended.append(text(await ask(request(f"{name} again"))))

    engine.failing = MemoryError("too much")
    # While a clock runs, what flows ask goes to the session.
    Scheduler(shared).run([flow("a"), asyncio.sleep(0.5)])
    assert ended == ["too much", "to a again I say yes"]


def test_those_who_ask_meanwhile_have_no_part_in_an_error() -> None:
    """The first request is bad, and others ask while it is found out, so that as many are open."""
    others: list[Any] = []

    class Session:
        def __init__(self) -> None:
            self.futures: list[Any] = []

        @property
        def busy(self) -> bool:
            return bool(self.futures)

        def add(self, request: Any, on_tokens: Any = None) -> Any:
            self.futures.append(Future())
            return self.futures[-1]

        def step(self) -> None:
            if not others:
                asking = threading.Thread(
                    target=lambda: others.extend(shared.add(request(each)) for each in "bc")
                )
                asking.start()
                asking.join(20)
                error = ValueError("only of a")
                self.futures.pop(0).set_exception(error)
                raise error
            self.futures.pop(0).set_result("done")

    class Engine(ScriptedEngine):
        def session(self) -> Any:
            return Session()

    shared = SharedEngine(Engine())
    try:
        with pytest.raises(ValueError, match="only of a"):
            shared.add(request("a")).result(20)
        assert [other.result(20) for other in others] == ["done", "done"]
    finally:
        shared.close()


def test_a_session_that_only_fails_is_left() -> None:
    class Broken(ScriptedEngine):
        sessions = 0

        def session(self) -> Any:
            self.sessions += 1
            engine = self

            class Session:
                busy = False

                def add(self, request: Any, on_tokens: Any = None) -> Any:
                    self.busy = True
                    self.future: Any = Future()
                    return self.future

                def step(self) -> None:
                    if engine.sessions == 1:
                        raise RuntimeError("for ever")
                    self.busy = False
                    self.future.set_result("done")

            return Session()

    engine = Broken()
    shared = SharedEngine(engine)
    try:
        with pytest.raises(RuntimeError, match="for ever"):
            shared.add(request("a")).result(20)
        assert shared.add(request("b")).result(20) == "done"
        assert engine.sessions == 2
    finally:
        shared.close()


def test_what_is_cancelled_leaves(engine: SteppingEngine, shared: SharedEngine) -> None:
    engine.hold()
    first, second = shared.add(request("a")), shared.add(request("b"))
    engine.allow()
    until(lambda: engine.rows)
    assert first.cancel()
    engine.go()
    assert text(second.result(20)) == "to b I say yes"
    assert engine.rows[-1] == 1
    assert not shared._open


def test_closed_it_takes_nothing(engine: SteppingEngine) -> None:
    shared = SharedEngine(engine)
    engine.hold()
    left = shared.add(request("a"))
    engine.go()
    shared.close()
    assert left.done()
    with pytest.raises(FlowtuneError, match="closed"):
        shared.add(request("b"))
    assert not any(t.name == "engine" and t is shared._thread for t in threading.enumerate())


def test_it_may_be_told_to_forget_between_steps(engine: SteppingEngine) -> None:
    called: list[int] = []
    shared = SharedEngine(engine, lambda: called.append(len(engine.rows)))
    try:
        shared.add(request("a")).result(20)
        assert called == [0, 1, 2, 3, 4]
    finally:
        shared.close()
