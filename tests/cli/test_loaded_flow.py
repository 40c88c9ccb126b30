"""A trained flow as a function: from threads, loops and notebooks, many calls at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

import flowtune_cli
from flowtune_cli import FlowFailed, LoadedFlow, UsageError
from flowtune_cli.engine.engine import ModelEngine
from flowtune_cli.engine.running_batch import RunningBatch
from support.installed_plugins import Site

Run = Callable[..., Any]


@pytest.fixture
def trained(letters: Site, run: Run) -> str:
    steps = ("--set", "training.save_every=2", "--set", "training.batch_size=2")
    assert run("train", "letters", "--name", "a", "--limit", "4", *steps).code == 0
    return "a"


@pytest.fixture
def flow(trained: str) -> Iterator[LoadedFlow]:
    with flowtune_cli.load(trained) as flow:
        yield flow


def played(run: Run, name: str, question: str) -> Any:
    given = json.dumps({"question": question})
    return json.loads(run("play", "letters", "--run", name, "--input", given, "--json").out)


def test_it_answers_as_play_does(flow: LoadedFlow, run: Run) -> None:
    expected = played(run, "a", "train 7")["result"]
    assert flow.run(question="train 7") == expected
    assert asyncio.run(flow_in_loop(flow, ["train 7"])) == [expected]
    with flowtune_cli.load("runs/a", checkpoint=2) as earlier:
        assert earlier.run(question="train 7") == played(run, "a@2", "train 7")["result"]
    with flowtune_cli.load(task="letters") as untrained:
        assert set(untrained.run(question="train 7")) == set(expected)


async def flow_in_loop(flow: LoadedFlow, questions: list[str]) -> list[Any]:
    return list(await asyncio.gather(*[flow(question=each) for each in questions]))


def test_many_calls_at_once_are_batched(trained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [f"q{n}" for n in range(12)]
    with flowtune_cli.load(trained) as flow:
        alone = [flow.run(question=question) for question in questions]
    outputs: list[int] = []
    step = RunningBatch.step

    def counted(batch: RunningBatch) -> Any:
        outputs.append(len(batch.outputs))
        return step(batch)

    monkeypatch.setattr(RunningBatch, "step", counted)
    with flowtune_cli.load(trained) as flow:
        together = asyncio.run(flow_in_loop(flow, questions))
    assert together == alone
    assert max(outputs) > 4


def test_threads_may_call_it(flow: LoadedFlow) -> None:
    found: dict[int, Any] = {}

    def call(number: int) -> None:
        found[number] = flow.run(question=f"q{number}")

    threads = [threading.Thread(target=call, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: flow.run(question=f"q{n}") for n in range(8)}


def test_a_flow_that_fails_says_so_and_the_next_call_works(flow: LoadedFlow) -> None:
    with (
        pytest.warns(UserWarning, match="the input 'text' is unknown.* examples had: question"),
        pytest.raises(FlowFailed, match="example has no input 'question'") as caught,
    ):
        flow.run(text="x")
    assert "in run" in caught.value.traceback
    with pytest.raises(UsageError, match="Did you mean 'question'"):
        flow.run(qestion="x")
    assert flow.run(question="q")


def test_an_engine_that_fails_fails_what_it_answers_and_the_next_call_works(
    flow: LoadedFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any) -> None:
        raise MemoryError("too much")

    with monkeypatch.context() as patch:
        patch.setattr(ModelEngine, "session", broken)
        calls = [flow.submit(question=f"q{n}") for n in range(3)]
        for call in calls:
            with pytest.raises((MemoryError, flowtune_cli.FlowtuneError)):
                call.result(timeout=30)
    assert flow.run(question="q")


def test_a_call_can_be_cancelled(flow: LoadedFlow) -> None:
    call = flow.submit(question="q")
    assert call.cancel()
    assert flow.run(question="r")

    async def impatient() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(flow(question="s"), 0.0001)

    asyncio.run(impatient())
    assert flow.run(question="t")


def test_closed_it_takes_no_calls_and_leaves_no_thread(trained: str) -> None:
    before = threading.active_count()
    flow = flowtune_cli.load(trained)
    assert flow.run(question="q")
    left = flow.submit(question="r")
    flow.close()
    with contextlib.suppress(CancelledError):
        left.result(timeout=30)
    assert threading.active_count() <= before + 1  # a pool that all loops share
    with pytest.raises(UsageError, match="the flow is closed"):
        flow.run(question="q")


def test_what_is_not_there(trained: str) -> None:
    with pytest.raises(UsageError, match="unknown run 'b'"):
        flowtune_cli.load("b")
    with pytest.raises(UsageError, match="has no checkpoint '3': it has 2, 4"):
        flowtune_cli.load(trained, checkpoint=3)
    with pytest.raises(UsageError, match="load a run, or say which task"):
        flowtune_cli.load()
    with pytest.raises(UsageError, match="checkpoint=2 is one of a run"):
        flowtune_cli.load(task="letters", checkpoint=2)
    with pytest.raises(UsageError, match="names the checkpoint 2, and checkpoint=4 another one"):
        flowtune_cli.load(f"{trained}@2", checkpoint=4)
