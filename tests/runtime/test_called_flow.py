"""A flow that is called, of whose calls nothing is left when they have ended."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
from concurrent.futures import CancelledError
from typing import Any

import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import FlowFailed, UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.runtime.called_flow import CalledFlow
from flowtune_cli.runtime.scheduler import Scheduler
from support.fake_engine import FakeEngine, FlowTask, write_letters, writer


async def flow(episode: Episode, example: Example) -> Any:
    if example.x == "wait":
        await asyncio.sleep(60)
    return await episode.call("a", x=example.x)


def called() -> CalledFlow:
    task = FlowTask([writer("a")], flow)
    return CalledFlow(task, lambda: Scheduler(FakeEngine(write_letters)))


def example(x: str) -> Example:
    return Example("e", {"x": x})


def test_nothing_is_kept_of_calls_that_have_ended() -> None:
    made = called()
    try:
        assert made.submit(example("1"), 0).result(20) == "A"
        waiting = made.submit(example("wait"), 0)
        assert waiting.cancel()
        with pytest.raises(FlowFailed):
            made.submit(Example("e", {}), 0).result(20)
        for _ in range(400):
            if not made._open:
                break
            time.sleep(0.01)
        assert not made._open
    finally:
        made.close()


def test_what_is_made_of_an_episode() -> None:
    made = called()
    try:
        assert made.submit(example("1"), 0, lambda e: len(e.steps)).result(20) == 1
        with pytest.raises(ZeroDivisionError):
            made.submit(example("1"), 0, lambda e: 1 // 0).result(20)
    finally:
        made.close()


def test_a_flow_that_goes_on_does_not_keep_it_from_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("called_flow", "event_loop"):
        monkeypatch.setattr(f"flowtune_cli.runtime.{module}.CLOSING_SECONDS", 0.2)

    async def stubborn(episode: Episode, example: Example) -> Any:
        begun.set()
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)

    begun, over = threading.Event(), threading.Event()
    made = CalledFlow(FlowTask([], stubborn), lambda: Scheduler(FakeEngine()))
    left = made.submit(example("1"), 0)
    assert begun.wait(20)
    start = time.monotonic()
    made.close()
    over.set()
    assert time.monotonic() - start < 5
    with contextlib.suppress(CancelledError):
        left.result(20)
    # Else its task, which nobody goes on with, is thrown away in the middle of another test.
    del made, left
    gc.collect()


def test_closed_it_takes_no_calls() -> None:
    made = called()
    left = made.submit(example("wait"), 0)
    made.close()
    assert left.cancelled()
    with pytest.raises(UsageError, match="the flow is closed"):
        made.submit(example("1"), 0)


def test_a_fork_is_told_that_nobody_would_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    made = called()
    try:
        assert made.submit(example("1"), 0).result(20) == "A"
        with monkeypatch.context() as fork:
            fork.setattr(os, "getpid", lambda: -1)
            with pytest.raises(UsageError, match="before this process was forked"):
                made.submit(example("1"), 0)
            made.close()  # of the other process
        assert made.submit(example("1"), 0).result(20) == "A"
    finally:
        made.close()


def test_a_call_whose_flow_has_begun_is_cancelled_by_closing() -> None:
    async def waits(episode: Episode, example: Example) -> Any:
        begun.set()
        await asyncio.sleep(60)

    begun = threading.Event()
    made = CalledFlow(FlowTask([], waits), lambda: Scheduler(FakeEngine()))
    left = made.submit(example("1"), 0)
    assert begun.wait(20)
    made.close()
    assert left.cancelled()
