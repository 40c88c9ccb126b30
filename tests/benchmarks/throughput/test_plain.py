"""The plain baseline and flowtune agree on the tiny model, and a wrong baseline is found out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.throughput.check import Report, compare_gradients, perturb
from benchmarks.throughput.check import _compare as compare_answers
from benchmarks.throughput.plain import PlainEngine
from benchmarks.work import Small
from flowtune_cli.config.settings import ModelSettings, Settings
from flowtune_cli.flow.prompt import Prompt, Template
from flowtune_cli.flow.request import Decoded, DecodeRequest, Decoding, Request, ScoreRequest
from flowtune_cli.nodes import Feature
from flowtune_cli.registry import load_registry
from flowtune_cli.training.data import collect
from flowtune_cli.training.session import Session, set_up
from support.tiny import plain as prompt


@pytest.fixture
def session(tiny_settings: ModelSettings) -> Session:
    settings = Settings.model_validate(
        {"model": tiny_settings, "adapter": {"rank": 2}, "learning": {"optimizer": "adam"}}
    )
    task = Small()
    long = Feature("long", lambda inputs: len(inputs["candidate"]) / 20, 0.5)
    task.node("retrieve").features = (long,)
    task.node("retrieve").head_optimizer = {"lr": 0.1}
    session = set_up(task, settings, load_registry())
    perturb(session, 0.1)
    return session


@pytest.fixture
def plain(session: Session) -> PlainEngine:
    tokens = session.engine.tokens
    return PlainEngine(session.adapters, tokens.tokenizer, tokens.context)


REQUESTS: list[Request] = [
    DecodeRequest("query", prompt("one and two"), 12),
    DecodeRequest("query", prompt("one"), 12, stop=("a", "e", "t")),
    DecodeRequest("answer", prompt("two"), 9, decoding=Decoding(groups=5, diversity_penalty=5.0)),
    DecodeRequest(
        "answer", prompt("two"), 20, tuple("abcdefgh"), Decoding(groups=6, diversity_penalty=2.0)
    ),
    DecodeRequest(None, prompt("three"), 5),
    ScoreRequest("enough", ((prompt("yes or no?"), ("Y", "N")), (prompt("a"), ("Y", "N")))),
    ScoreRequest(
        "retrieve", tuple((prompt("text " * n), ("ab", "", "wordy end")) for n in range(1, 7))
    ),
]


def compared(session: Session, plain: PlainEngine, requests: list[Request]) -> Report:
    report = Report()
    answers = zip(session.engine.answer(requests), plain.answer(requests), strict=True)
    for request, (mine, other) in zip(requests, answers, strict=True):
        compare_answers(report, session, request, mine, other)
    return report


def test_answers_agree(session: Session, plain: PlainEngine) -> None:
    report = compared(session, plain, REQUESTS)
    assert report.errors == []
    assert report.ties == []
    assert report.counts["texts"] == 1 + 1 + 5 + 6 + 1
    assert report.counts["score"] == 2 * 2 + 6 * 3


def after(frozen_prefix: str, user: str = "") -> Prompt:
    template = Template(frozen_prefix=frozen_prefix, user=user, chat=False)
    return template.render({}, node="n", reserve=0)


AFTER_FROZEN_PREFIXES: list[Request] = [
    DecodeRequest("query", after("one and two", " three"), 12),
    DecodeRequest(
        "answer", after("two", " one"), 9, decoding=Decoding(groups=5, diversity_penalty=5.0)
    ),
    DecodeRequest(None, after("three", " one"), 5),
    # Frozen prefixes of unlike lengths in one micro-batch, with and without a text after them.
    ScoreRequest(
        "retrieve",
        tuple((after("text " * n, "?" * (n % 3)), ("ab", "wordy end")) for n in range(1, 7)),
    ),
]


def test_answers_after_frozen_prefixes_agree(session: Session, plain: PlainEngine) -> None:
    report = compared(session, plain, AFTER_FROZEN_PREFIXES)
    assert (report.errors, report.ties) == ([], [])
    assert (report.counts["texts"], report.counts["score"]) == (1 + 5 + 1, 6 * 2)


def test_rows_end_at_different_places(plain: PlainEngine) -> None:
    (answer,) = plain.answer([REQUESTS[3]])
    assert isinstance(answer, Decoded)
    lengths = {len(generation.tokens) for generation in answer.generations}
    assert len(lengths) > 2
    assert not all(generation.truncated for generation in answer.generations)


def test_whole_answers_agree_but_for_rounding(session: Session, plain: PlainEngine) -> None:
    for mine, other in zip(session.engine.answer(REQUESTS), plain.answer(REQUESTS), strict=True):
        for name in ("prompt", "prompts", "prompt_tokens", "dropped_tokens", "adapter_version"):
            assert getattr(mine, name, None) == getattr(other, name, None)
        for a, b in zip(
            getattr(mine, "generations", ()), getattr(other, "generations", ()), strict=True
        ):
            assert (a.text, a.truncated) == (b.text, b.truncated)


@pytest.mark.parametrize("number", [0, 2, 6])
def test_another_adapter_is_found_out(session: Session, plain: PlainEngine, number: int) -> None:
    right = plain.answer
    plain.answer = lambda requests: right(  # type: ignore[method-assign]
        [replace(request, adapter="shorten") for request in requests]
    )
    assert compared(session, plain, [REQUESTS[number]]).errors


def test_gradients_agree(session: Session, plain: PlainEngine) -> None:
    report = Report()
    compare_gradients(report, session, session, data_of(session))
    assert report.errors == []
    assert report.counts["gradient"] > 5


def test_a_wrong_gradient_is_found_out(
    session: Session, plain: PlainEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(session)
    monkeypatch.setattr("benchmarks.throughput.plain.dpo_loss", lambda a, b, c, d, beta: a - b)
    report = Report()
    compare_gradients(report, session, session, data)
    assert report.errors


def data_of(session: Session) -> dict[str, Any]:
    """What every node of the small flow learns from two examples."""
    examples = list(session.task.examples(None, "train"))[:2]
    found = dict(session.deviate(examples))
    return {
        name: mine.data for name, mine in collect(session.task.nodes, [found[0], found[1]]).items()
    }


def test_samples_are_refused(plain: PlainEngine) -> None:
    request = DecodeRequest("query", prompt("one"), 3, decoding=Decoding(samples=1))
    with pytest.raises(NotImplementedError, match="sample"):
        plain.answer([request])


def test_a_difference_that_is_no_tie_is_an_error(session: Session, plain: PlainEngine) -> None:
    request = REQUESTS[0]
    (mine,), (other,) = session.engine.answer([request]), plain.answer([request])
    first = mine.generations[0]
    wrong = replace(mine, generations=(replace(first, tokens=(1, *first.tokens[1:])),))
    report = Report()
    compare_answers(report, session, request, wrong, other)
    assert len(report.errors) == 1
    assert "token 0" in report.errors[0]
