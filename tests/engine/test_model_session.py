"""Requests that come one after the other are answered as if each were alone."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtune_cli.engine import prefix_cache
from flowtune_cli.engine.engine import ModelEngine
from flowtune_cli.engine.model_session import ModelSession
from flowtune_cli.engine.paths import Paths
from flowtune_cli.engine.rows import Rows
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.prompt import Message, Prompt, Segment
from flowtune_cli.flow.request import (
    GREEDY,
    Answer,
    Decoded,
    DecodeRequest,
    Decoding,
    EngineSession,
    Request,
    ScoreRequest,
)
from flowtune_cli.models.loading import LoadedModel
from flowtune_cli.models.out_of_memory import OutOfMemory, say_once
from flowtune_cli.runtime.scheduler import Scheduler, ask
from support.tiny import make_adapters, make_engine, make_model, plain

DIVERSE = Decoding(groups=3, diversity_penalty=2.0)
SAMPLED = Decoding(samples=2, temperature=1.5, top_p=0.9)
MIXED = Decoding(groups=2, diversity_penalty=2.0, samples=1)

WAYS = ("cascade", "padded", "plain", "windows")
"""The ways to play on a Llama; and padded rows of a model with windows."""


def written(
    text: str,
    most: int = 6,
    how: Decoding = GREEDY,
    adapter: str | None = "a",
    stop: tuple[str, ...] = (),
    seed: int = 0,
) -> DecodeRequest:
    return DecodeRequest(adapter, plain(text), most, stop, how, (seed, "x", 0))


def judged(text: str, *completions: str, adapter: str | None = "a") -> ScoreRequest:
    return ScoreRequest(adapter, ((plain(text), completions),))


def same(found: Answer, expected: Answer) -> None:
    if isinstance(expected, Decoded):
        assert isinstance(found, Decoded)
        texts = [
            [(g.text, g.tokens, g.truncated) for g in x.generations] for x in (found, expected)
        ]
        assert texts[0] == texts[1]
        logprobs = [[g.logprob for g in x.generations] for x in (found, expected)]
        assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)
        assert replace(found, generations=()) == replace(expected, generations=())
    else:
        assert not isinstance(found, Decoded)
        assert replace(found, likelihoods=()) == replace(expected, likelihoods=())
        for own, other in zip(found.likelihoods, expected.likelihoods, strict=True):
            assert [x.logprob for x in own] == pytest.approx([x.logprob for x in other], abs=1e-4)


def finish(session: EngineSession, most: int = 500) -> int:
    """Steps until nothing is left to do."""
    for steps in range(most):
        if not session.busy:
            return steps
        session.step()
    raise AssertionError("the session does not end")


class Reader:
    """Where the tokens of a request go."""

    def __init__(self) -> None:
        self.tokens: dict[int, list[int]] = {}
        self.calls = 0

    def __call__(self, output: int, tokens: tuple[int, ...]) -> None:
        assert tokens
        self.calls += 1
        self.tokens.setdefault(output, []).extend(tokens)


@pytest.fixture
def engine(tiny_model: LoadedModel) -> ModelEngine:
    engine = make_engine(tiny_model, make_adapters(tiny_model))
    engine.decoder.end = frozenset()
    return engine


def limit(engine: ModelEngine, tokens_per_batch: int) -> None:
    limits = replace(engine.limits, tokens_per_batch=tokens_per_batch)
    engine.limits = engine.prefixes.limits = limits


def alone(engine: ModelEngine, request: Request) -> Answer:
    engine.forget()
    (answer,) = engine.answer([request])
    engine.forget()
    return answer


# Equal to what each request gets alone


class Arrival(NamedTuple):
    """A request, the step before which it comes, and that before which it is cancelled."""

    request: Request
    step: int
    cancelled: int | None


BEGINNINGS = ("", "a common beginning of several prompts, longer than most: ", "short ")


def _prompt(beginning: int, text: str, frozen: bool) -> Prompt:
    if frozen and beginning:
        messages = (
            Message("prefix", (Segment(BEGINNINGS[beginning]),)),
            Message("text", (Segment(text),)),
        )
        return Prompt(messages, chat=False, reserve=16)
    return plain(BEGINNINGS[beginning] + text)


prompts = st.builds(
    _prompt, st.integers(0, 2), st.text("abcdefgh ", min_size=1, max_size=30), st.booleans()
)
requests: st.SearchStrategy[Request] = st.one_of(
    st.builds(
        DecodeRequest,
        adapter=st.sampled_from(["a", "b", None]),
        prompt=prompts,
        max_new_tokens=st.integers(1, 14),
        stop=st.sampled_from([(), (), ("e", "A"), ("never there",)]),
        decoding=st.sampled_from([GREEDY, GREEDY, DIVERSE, SAMPLED, MIXED]),
        seed=st.tuples(st.integers(0, 3)),
    ),
    st.builds(
        lambda adapter, prompt, texts: ScoreRequest(adapter, ((prompt, tuple(texts)),)),
        st.sampled_from(["a", "b", None]),
        prompts,
        st.lists(st.text("abc", max_size=5), min_size=1, max_size=3),
    ),
)
arrivals = st.lists(
    st.builds(Arrival, requests, st.integers(0, 12), st.none() | st.integers(1, 16)),
    min_size=1,
    max_size=7,
)


@pytest.fixture(scope="module")
def engines(_loaded: LoadedModel) -> dict[str, ModelEngine]:
    """An engine for each way, whose limits tests set."""
    made = {}
    for way in WAYS:
        loaded = replace(_loaded, model=copy.deepcopy(_loaded.model))
        if way == "windows":
            loaded = make_model("Gemma2", loaded)
        made[way] = make_engine(loaded, make_adapters(loaded))
        # Some outputs end by themselves.
        made[way].decoder.end = frozenset(range(0, 258, 11))
        if way in ("padded", "plain"):
            paths = Paths(way, "packed")
            made[way].prefixes = prefix_cache.PrefixCache(
                made[way].adapters, made[way].limits, paths
            )
            made[way].decoder.prefixes = made[way].prefixes
    return made


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=25)
@given(arrivals=arrivals, tokens_per_batch=st.sampled_from([16, 64, 4096]))
def test_whenever_requests_come_they_are_answered_as_if_alone(
    engines: dict[str, ModelEngine], way: str, arrivals: list[Arrival], tokens_per_batch: int
) -> None:
    engine = engines[way]
    limit(engine, tokens_per_batch)
    expected = [alone(engine, arrival.request) for arrival in arrivals]
    session = engine.session()
    futures: dict[int, Future[Answer]] = {}
    readers = [Reader() for _ in arrivals]
    for step in range(20):
        for number, arrival in enumerate(arrivals):
            if arrival.step == step:
                futures[number] = session.add(arrival.request, readers[number])
            if arrival.cancelled == step and number in futures:
                futures[number].cancel()
        session.step()
        held = sum(batch.held.tokens for batch in session._batches.values())
        assert held <= engine.decoder.budget or len(session._running) == 1
    finish(session)
    assert [len(session._running), len(session._jobs), len(session._batches)] == [0, 0, 0]
    for number, arrival in enumerate(arrivals):
        if futures[number].cancelled():
            assert arrival.cancelled is not None
            continue
        answer = futures[number].result(0)
        same(answer, expected[number])
        if isinstance(answer, Decoded):
            told = [readers[number].tokens[n] for n in range(len(answer.generations))]
            assert told == [list(generation.tokens) for generation in answer.generations]


# Late and early


@pytest.mark.parametrize("way", ["cascade", "padded", "windows"])
def test_a_late_short_request_is_answered_before_an_early_long_one_ends(
    engines: dict[str, ModelEngine], way: str
) -> None:
    engine = engines[way]
    limit(engine, 4096)
    engine.forget()
    end, engine.decoder.end = engine.decoder.end, frozenset()
    try:
        session = engine.session()
        long = session.add(written("an early one", 30))
        for _ in range(5):
            session.step()
        # Of another adapter, too.
        late = [session.add(written("late", 3)), session.add(written("late", 3, adapter="b"))]
        for _ in range(2):
            session.step()
        assert not any(future.done() for future in late)
        session.step()
        assert all(future.done() for future in late)
        assert not long.done()
        # As many steps as the long one takes alone.
        assert finish(session) == 30 - 8
        assert len(long.result(0).generations[0].tokens) == 30  # type: ignore[union-attr]
    finally:
        engine.decoder.end = end


def test_rows_of_one_adapter_share_a_pass(engine: ModelEngine) -> None:
    shapes: list[tuple[int, ...]] = []
    engine.adapters.model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    session = engine.session()
    session.add(written("12345", 5))
    session.step()
    session.step()
    session.add(written("123", 3))
    finish(session)
    # The first is read, and has a token; then the second comes, and leaves before it.
    assert shapes == [(1, 5), (1, 1), (1, 3), (1, 1), (2, 1), (2, 1)]


def test_tokens_come_one_by_one(engine: ModelEngine) -> None:
    session, reader = engine.session(), Reader()
    future = session.add(written("a text", 5, SAMPLED), reader)
    for step in range(1, 5):
        session.step()
        assert [len(reader.tokens[n]) for n in range(3)] == [step] * 3
        assert not future.done()
    session.step()
    assert future.done()


def test_who_asks_the_same_later_gets_all_tokens_and_the_same_answer(engine: ModelEngine) -> None:
    session, readers = engine.session(), [Reader() for _ in range(3)]
    first = session.add(written("a text", 6, DIVERSE), readers[0])
    for _ in range(3):
        session.step()
    # The first output of what explores answers the greedy request.
    second = session.add(written("a text", 6), readers[1])
    session.step()
    assert [len(tokens) for tokens in readers[1].tokens.values()] == [4]
    assert len(session._running) == 1
    first.cancel()
    finish(session)
    third = session.add(written("a text", 6, DIVERSE), readers[2])
    session.step()
    answers = [second.result(0), third.result(0)]
    assert isinstance(answers[0], Decoded)
    assert isinstance(answers[1], Decoded)
    assert answers[0].generations == answers[1].generations[:1]
    assert [len(r.tokens) for r in readers] == [3, 1, 3]
    assert readers[1].tokens[0] == readers[2].tokens[0] == list(answers[0].generations[0].tokens)


# What waits


def test_what_does_not_fit_waits_and_is_not_overtaken(engine: ModelEngine) -> None:
    limit(engine, 16)
    session = engine.session()
    # 4 * 16 tokens are held: 10 + 20 of the first, 40 + 10 of the second, 1 + 2 of the third.
    first = session.add(written("1" * 10, 20))
    second = session.add(written("2" * 40, 10))
    third = session.add(written("3", 2))
    for _ in range(19):
        session.step()
        assert len(session._running) == 1
    session.step()
    assert first.done()
    session.step()
    assert len(session._running) == 1
    assert not third.done()
    finish(session)
    for future, text, most in ((first, "1" * 10, 20), (second, "2" * 40, 10), (third, "3", 2)):
        same(future.result(0), alone(engine, written(text, most)))


def test_no_more_prompts_are_read_in_a_step_than_a_pass_takes(engine: ModelEngine) -> None:
    limit(engine, 64)
    session = engine.session()
    for number in range(4):
        session.add(written(f"{number}" * 30, 8))
    running = []
    for _ in range(3):
        session.step()
        running.append(len(session._running))
    assert running == [2, 4, 4]


def test_scores_are_answered_between_the_steps_of_what_is_decoded(engine: ModelEngine) -> None:
    session = engine.session()
    long = session.add(written("a long one", 20))
    for _ in range(4):
        session.step()
    scores = [session.add(judged("late", "yes", "no", adapter=name)) for name in ("a", "b", "a")]
    session.step()
    # Those of one adapter in each step, however many come.
    assert [score.done() for score in scores] == [True, False, True]
    more = session.add(judged("later", "yes"))
    session.step()
    assert scores[1].done()
    session.step()
    assert more.done()
    assert not long.done()
    # Each of these steps gave it a token, too.
    assert finish(session) == 20 - 7
    same(more.result(0), alone(engine, judged("later", "yes")))


# Ends


def test_what_is_cancelled_makes_room(engine: ModelEngine) -> None:
    session = engine.session()
    futures = [session.add(written(f"text {n}", 40, DIVERSE)) for n in range(3)]
    queued = session.add(judged("x", "y"))
    assert queued.cancel()
    for _ in range(4):
        session.step()
    futures[1].cancel()
    session.step()
    (batch,) = session._batches.values()
    assert sorted(batch.outputs) == [0, 2]
    assert batch._cache is not None
    assert batch._cache_rows == 6
    with pytest.raises(CancelledError):
        futures[1].result(0)
    for future in futures:
        future.cancel()
    assert session.busy
    session.step()
    assert not session.busy


def test_a_request_that_cannot_be_read_fails_alone(engine: ModelEngine) -> None:
    session = engine.session()
    good = session.add(written("a text", 5))
    bad = session.add(written("b" * 2000, 5))
    scored = session.add(judged("x", "y"))
    unscored = session.add(judged("b" * 2000, "y"))
    errors = 0
    while session.busy:
        try:
            session.step()
        except UsageError:
            errors += 1
    assert errors == 2
    for future in (bad, unscored):
        assert isinstance(future.exception(0), UsageError)
    same(good.result(0), alone(engine, written("a text", 5)))
    same(scored.result(0), alone(engine, judged("x", "y")))


def test_logits_that_are_not_finite_fail_their_batch_alone(
    engine: ModelEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = engine.session()
    bad = [session.add(written(f"text {n}", 9)) for n in range(2)]
    good = session.add(written("a text", 9, adapter="b"))
    choose = Rows.choose

    def damaged(self: Rows, logits: torch.Tensor) -> Any:
        if len(self.outputs) == 2 and len(self.outputs[0].tokens) == 4:
            logits = logits * torch.nan
        return choose(self, logits)

    monkeypatch.setattr(Rows, "choose", damaged)
    with pytest.raises(UsageError, match="logits are not finite"):
        finish(session)
    assert all(isinstance(future.exception(0), UsageError) for future in bad)
    finish(session)
    same(good.result(0), alone(engine, written("a text", 9, adapter="b")))


def test_a_reader_that_fails_fails_its_own_request_alone(engine: ModelEngine) -> None:
    def broken(output: int, tokens: tuple[int, ...]) -> None:
        raise ConnectionError("gone")

    session = engine.session()
    bad, good = session.add(written("a text", 5), broken), session.add(written("a text", 5))
    finish(session)
    assert isinstance(bad.exception(0), ConnectionError)
    same(good.result(0), alone(engine, written("a text", 5)))


# Where memory is short


def short_of_memory(monkeypatch: pytest.MonkeyPatch, most: int, at: int) -> list[int]:
    """No more rows than ``most`` get beyond so many tokens; returns how many failed, each time."""
    say_once.cache_clear()
    failed: list[int] = []
    choose = Rows.choose

    def short(self: Rows, logits: torch.Tensor) -> Any:
        chosen = choose(self, logits)
        if self.outputs and len(self.outputs[0].tokens) == at and len(self.outputs) > most:
            failed.append(len(self.outputs))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return chosen

    monkeypatch.setattr(Rows, "choose", short)
    return failed


def test_a_batch_without_memory_is_decoded_again_in_smaller_ones(
    engine: ModelEngine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: Sequence[DecodeRequest] = [
        written(f"text {n}", 6 + n, SAMPLED, seed=n, adapter="ab"[n == 4]) for n in range(5)
    ]
    expected = [alone(engine, request) for request in asked]
    failed = short_of_memory(monkeypatch, 5, 3)
    session = engine.session()
    readers = [Reader() for _ in asked]
    futures = [session.add(*pair) for pair in zip(asked, readers, strict=True)]
    finish(session)
    assert len(failed) > 1
    for future, answer, reader in zip(futures, expected, readers, strict=True):
        same(future.result(0), answer)
        # What was told is not told again.
        assert isinstance(answer, Decoded)
        assert reader.tokens == {n: list(g.tokens) for n, g in enumerate(answer.generations)}
    assert capfd.readouterr().err.startswith("memory is short while writing the outputs")
    # From then on as many as before are tried.
    assert session._most > len(asked)


def test_one_request_for_which_there_is_too_little_memory(
    engine: ModelEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(monkeypatch, 2, 3)
    session = engine.session()
    good = session.add(written("good", 9))
    bad = session.add(written("bad", 9, SAMPLED))
    with pytest.raises(OutOfMemory, match="while writing the outputs of a prompt: CUDA out of"):
        finish(session)
    assert isinstance(bad.exception(0), OutOfMemory)
    finish(session)
    assert good.done()


@pytest.mark.parametrize("request_", [written("late", 3), judged("late", "yes", "no")])
def test_what_has_too_little_memory_beside_others_waits_for_their_end(
    engine: ModelEngine, monkeypatch: pytest.MonkeyPatch, request_: Request
) -> None:
    expected = alone(engine, request_)
    session = engine.session()
    long = session.add(written("a long one", 12))
    session.step()
    session.step()
    read, failed = prefix_cache.prefill, []

    def short(*arguments: Any, **more: Any) -> Any:
        if session._batches:
            failed.append(len(arguments[1]))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return read(*arguments, **more)

    monkeypatch.setattr(prefix_cache, "prefill", short)
    late = session.add(request_)
    behind = session.add(written("behind it", 2))
    session.step()
    assert failed
    tried = len(failed)
    for _ in range(9):
        session.step()
        assert not late.done()
    assert long.done()
    # It is not tried again and again, nor is what came behind it.
    assert len(failed) == tried
    finish(session)
    same(late.result(0), expected)
    assert behind.done()


# As flows see it


def test_a_flow_that_waited_for_a_tool_is_answered_while_another_ones_batch_is_decoded(
    engine: ModelEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, asked = threading.Event(), threading.Event()
    step, steps = ModelSession.step, []

    def counted(self: ModelSession) -> None:
        step(self)
        steps.append(len(self._running))
        if len(steps) == 6:
            # The tool ends within this step, and the flow has asked before it ends.
            released.set()
            assert asked.wait(20)

    monkeypatch.setattr(ModelSession, "step", counted)

    async def early() -> Any:
        return await ask(written("an early one", 40))

    async def late() -> Any:
        await asyncio.to_thread(released.wait, 20)
        asked.set()
        return await ask(written("late", 4)), await ask(judged("late", "yes", "no"))

    stream = Scheduler(engine).stream([early(), late()])
    position, (decoded, scored) = next(stream)
    assert position == 1
    assert steps == [1] * 6 + [2] * 3 + [1] * 2
    ((position, long),) = stream
    assert position == 0
    assert len(steps) == 40
    same(long, alone(engine, written("an early one", 40)))
    same(decoded, alone(engine, written("late", 4)))
    same(scored, alone(engine, judged("late", "yes", "no")))
