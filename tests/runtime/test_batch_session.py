"""An engine without a session of its own answers whole batches."""

from __future__ import annotations

import pytest

from flowtune_cli.flow.prompt import Message, Prompt, Segment
from flowtune_cli.flow.request import Decoded, DecodeRequest, Request, ScoreRequest
from flowtune_cli.runtime.batch_session import BatchSession, open_session
from support.fake_engine import FakeEngine


def prompt(text: str) -> Prompt:
    return Prompt((Message("text", (Segment(text),)),), chat=False)


def decode(adapter: str, text: str) -> DecodeRequest:
    return DecodeRequest(adapter, prompt(text), 5)


def test_a_step_answers_the_largest_group() -> None:
    engine = FakeEngine()
    session = open_session(engine)
    assert isinstance(session, BatchSession)
    requests: list[Request] = [
        decode("a", "1"),
        decode("b", "2"),
        ScoreRequest("b", ((prompt("3"), ("x",)),)),
        decode("b", "4"),
    ]
    futures = [session.add(request) for request in requests]
    session.step()
    assert [future.done() for future in futures] == [False, True, False, True]
    late = session.add(decode("a", "5"))
    session.step()
    session.step()
    assert not session.busy
    assert [len(batch) for batch in engine.batches] == [2, 2, 1]
    for future, text in ((futures[0], "1"), (futures[3], "4"), (late, "5")):
        answer = future.result(0)
        assert isinstance(answer, Decoded)
        assert answer.prompt == f"<{text}>"


def test_what_is_cancelled_is_not_asked() -> None:
    engine = FakeEngine()
    session = BatchSession(engine)
    first, second = session.add(decode("a", "1")), session.add(decode("a", "2"))
    assert first.cancel()
    session.step()
    assert second.done()
    assert [len(batch) for batch in engine.batches] == [1]
    session.add(decode("a", "3")).cancel()
    session.step()
    assert not session.busy
    assert len(engine.batches) == 1


def test_an_error_is_raised_and_given_to_its_batch_alone() -> None:
    session = BatchSession(FakeEngine(fail_at=0))
    bad = [session.add(decode("a", "1")), session.add(decode("a", "2"))]
    good = session.add(decode("b", "3"))
    with pytest.raises(MemoryError):
        session.step()
    assert all(isinstance(future.exception(0), MemoryError) for future in bad)
    session.engine = FakeEngine()
    session.step()
    assert good.done()
