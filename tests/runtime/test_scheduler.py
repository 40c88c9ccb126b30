"""The scheduler: order, bounds, batches, and that it cleans up behind itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtune_cli.flow.prompt import Message, Prompt, Segment
from flowtune_cli.flow.request import DecodeRequest, Request, ScoreRequest
from flowtune_cli.runtime.scheduler import Scheduler, ask, gather
from support.fake_engine import FakeEngine, run


def prompt(text: str) -> Prompt:
    return Prompt((Message("text", (Segment(text),)),), chat=False)


def decode(adapter: str | None, text: str) -> Request:
    return DecodeRequest(adapter, prompt(text), max_new_tokens=9)


def score(adapter: str | None, text: str) -> Request:
    return ScoreRequest(adapter, ((prompt(text), ("yes",)),))


def shown(request: Request) -> str:
    """What a request shows, whichever kind it is."""
    if isinstance(request, DecodeRequest):
        return request.prompt.text
    return request.items[0][0].text


def echo_engine(**more: Any) -> FakeEngine:
    return FakeEngine(write=lambda text, output: text.upper(), **more)


async def calls(name: str, times: int) -> list[str]:
    """Ask a number of times, one after the other."""
    texts = []
    for number in range(times):
        answer = await ask(decode("a", f"{name}{number}"))
        texts.append(answer.generations[0].text)
    return texts


def test_results_come_in_the_order_given() -> None:
    results = run(echo_engine(), calls("x", 3), calls("y", 0), calls("z", 1))
    assert results == [["X0", "X1", "X2"], [], ["Z0"]]


def test_stream_yields_as_coroutines_end() -> None:
    stream = Scheduler(echo_engine()).stream([calls("x", 2), calls("y", 0), calls("z", 1)])
    assert list(stream) == [(1, []), (2, ["Z0"]), (0, ["X0", "X1"])]


def test_no_coroutines() -> None:
    engine = echo_engine()
    assert run(engine) == []
    assert engine.batches == []


@pytest.mark.parametrize("in_flight", [1, 2, 5, 100])
def test_no_more_coroutines_than_in_flight(in_flight: int) -> None:
    alive, most = 0, 0

    async def counted(number: int) -> int:
        nonlocal alive
        await calls(str(number), number % 4)
        alive -= 1
        return number

    def source() -> Iterator[Any]:
        nonlocal alive, most
        for number in range(20):
            alive += 1
            most = max(most, alive)
            yield counted(number)

    assert Scheduler(echo_engine(), in_flight=in_flight).run(source()) == list(range(20))
    assert most == min(in_flight, 20)


def test_gathered_coroutines_do_not_count() -> None:
    engine = echo_engine()

    async def many() -> list[list[str]]:
        return await gather(calls(name, 1) for name in "abcd")

    run(engine, many(), many(), in_flight=1)
    assert [len(batch) for batch in engine.batches] == [4, 4]


def test_gather_nests_and_keeps_the_order() -> None:
    async def inner(name: str) -> list[list[str]]:
        return await gather(calls(f"{name}{n}", n) for n in range(3))

    async def outer() -> Any:
        first = await gather([inner("x"), inner("y")])
        return first, await gather([]), await calls("z", 1)

    def expected(name: str) -> list[list[str]]:
        return [[], [f"{name}10"], [f"{name}20", f"{name}21"]]

    (result,) = run(echo_engine(), outer())
    assert result == ([expected("X"), expected("Y")], [], ["Z0"])


# Random trees: what runs side by side gives the same as one after the other


Tree = Any
trees = st.recursive(st.integers(0, 3), lambda inner: st.lists(inner, max_size=3), max_leaves=8)


async def climb(tree: Tree, path: str) -> Any:
    if isinstance(tree, int):
        return await calls(path, tree)
    before = await ask((score if len(tree) % 2 else decode)("ab"[len(tree) % 2], path))
    branches = await gather(climb(branch, f"{path}.{n}") for n, branch in enumerate(tree))
    return before.adapter_version, branches


def walk(tree: Tree, path: str) -> Any:
    if isinstance(tree, int):
        return [f"{path}{n}" for n in range(tree)]
    version = 7 if len(tree) % 2 else 5
    return version, [walk(branch, f"{path}.{n}") for n, branch in enumerate(tree)]


@settings(max_examples=40)
@given(st.lists(trees, max_size=5), st.integers(1, 4), st.integers(1, 4))
def test_results_do_not_depend_on_bounds(
    forest: list[Tree], in_flight: int, batch_requests: int
) -> None:
    engine = echo_engine()
    coroutines = [climb(tree, str(n)) for n, tree in enumerate(forest)]
    results = run(engine, *coroutines, in_flight=in_flight, batch_requests=batch_requests)
    assert results == [walk(tree, str(n)) for n, tree in enumerate(forest)]
    for batch in engine.batches:
        assert 1 <= len(batch) <= batch_requests
        assert len({(type(request), request.adapter) for request in batch}) == 1
    again = echo_engine()
    run(
        again,
        *(climb(tree, str(n)) for n, tree in enumerate(forest)),
        in_flight=in_flight,
        batch_requests=batch_requests,
    )
    assert again.batches == engine.batches


# Batches


async def once(request: Request) -> Any:
    return await ask(request)


def test_batches_are_of_one_kind_and_adapter_and_the_largest_goes_first() -> None:
    requests = [
        decode("a", "1"),
        score("a", "2"),
        decode("b", "3"),
        decode(None, "4"),
        score("a", "5"),
        decode("b", "6"),
        decode("b", "7"),
    ]
    engine = echo_engine()
    run(engine, *map(once, requests))
    batches = [[shown(request) for request in batch] for batch in engine.batches]
    assert batches == [["3", "6", "7"], ["2", "5"], ["1"], ["4"]]


def test_an_engine_that_mixes_adapters_gets_all_at_once() -> None:
    requests = [decode("a", "1"), score("a", "2"), decode("b", "3"), decode(None, "4")]
    engine = echo_engine()
    engine.mixes_adapters = True  # type: ignore[attr-defined]
    run(engine, *map(once, requests), batch_requests=3)
    batches = [[shown(request) for request in batch] for batch in engine.batches]
    assert batches == [["1", "2", "3"], ["4"]]


def test_batches_are_no_larger_than_batch_requests() -> None:
    engine = echo_engine()
    results = run(engine, *(calls(str(n), 1) for n in range(7)), batch_requests=3)
    assert [len(batch) for batch in engine.batches] == [3, 3, 1]
    assert results == [[f"{n}0"] for n in range(7)]


def test_room_is_filled_before_the_engine_is_asked() -> None:
    engine = echo_engine()
    times = [1, 0, 0, 1, 1, 0, 1]  # those that ask for nothing leave their room to others
    run(engine, *(calls(str(n), t) for n, t in enumerate(times)), in_flight=2)
    assert [len(batch) for batch in engine.batches] == [2, 2]


# Ends


held: list[Any] = []


@pytest.fixture(autouse=True)
def _hold() -> Iterator[None]:
    """Coroutines are held, so that nothing but the scheduler closes them during a test."""
    yield
    held.clear()


def hold(coroutine: Any) -> Any:
    held.append(coroutine)
    return coroutine


def closable(log: list[str], name: str) -> Any:
    async def flow() -> None:
        try:
            await gather([calls(f"{name}1", 9), calls(f"{name}2", 9)])
        finally:
            log.append(name)

    return hold(flow())


def test_coroutines_are_closed_when_the_engine_raises() -> None:
    log: list[str] = []
    with pytest.raises(MemoryError):
        run(echo_engine(fail_at=2), closable(log, "x"), closable(log, "y"))
    assert sorted(log) == ["x", "y"]


def test_a_flow_that_raises_while_it_is_closed_hides_nothing() -> None:
    log: list[str] = []

    async def rude() -> None:
        try:
            await ask(decode("a", "1"))
        finally:
            raise ValueError("on the way out")

    with pytest.raises(MemoryError):
        run(echo_engine(fail_at=0), hold(rude()), closable(log, "x"))
    assert log == ["x"]


def test_coroutines_are_closed_when_another_raises() -> None:
    log: list[str] = []

    async def fails() -> None:
        await calls("f", 2)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run(echo_engine(), closable(log, "x"), fails())
    assert log == ["x"]


def test_coroutines_are_closed_when_the_stream_is_left() -> None:
    log: list[str] = []
    stream = Scheduler(echo_engine()).stream([closable(log, "x"), calls("y", 1)])
    assert next(stream) == (1, ["Y0"])
    assert log == []
    stream.close()  # type: ignore[attr-defined]
    assert log == ["x"]


def test_coroutines_are_closed_when_their_source_raises() -> None:
    log: list[str] = []

    def source() -> Iterator[Any]:
        yield closable(log, "x")
        yield calls("y", 1)
        raise OSError("the data file is gone")

    with pytest.raises(OSError, match="gone"):
        Scheduler(echo_engine(), in_flight=2).run(source())
    assert log == ["x"]


def test_too_few_answers_are_an_error() -> None:
    class Forgetful(FakeEngine):
        def answer(self, requests: list[Request]) -> list[Any]:
            return super().answer(requests)[1:]

    with pytest.raises(ValueError, match="shorter"):
        run(Forgetful(), calls("x", 1), calls("y", 1))
