"""Under constraints: what is written fits, and is scored among the tokens that were allowed."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtune_cli.engine import prefix_cache, scoring
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.engine import ModelEngine
from flowtune_cli.engine.likelihoods import Completion, likelihoods
from flowtune_cli.engine.paths import Paths
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.request import (
    GREEDY,
    Constraint,
    Decoded,
    DecodeRequest,
    Decoding,
    Generation,
)
from flowtune_cli.models.constraints import Grammar
from flowtune_cli.models.loading import LoadedModel
from support.tiny import logits, make_adapters, make_engine, plain

DIVERSE = Decoding(groups=3, diversity_penalty=3.0)
SAMPLED = Decoding(samples=2, temperature=1.5, top_p=0.9, greedy=False)
NUMBER = Constraint("regex", "-?[1-9][0-9]{0,4}")
CHOICE = Constraint("choice", json.dumps(["no", "not yet", "yes"]))
SCHEMA = Constraint(
    "json_schema",
    json.dumps(
        {
            "type": "object",
            "properties": {"a": {"enum": [1, 22]}, "b": {"type": "boolean"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        }
    ),
)


def fits(constraint: Constraint | None, text: str) -> bool:
    if constraint is None:
        return True
    if constraint.kind == "regex":
        return re.fullmatch(constraint.value, text) is not None
    if constraint.kind == "choice":
        return text in json.loads(constraint.value)
    value = json.loads(text)
    return set(value) == {"a", "b"} and value["a"] in (1, 22) and value["b"] in (True, False)


def asked(
    text: str,
    constraint: Constraint | None,
    how: Decoding = GREEDY,
    *,
    most: int = 60,
    seed: int = 0,
    adapter: str | None = "a",
) -> DecodeRequest:
    return DecodeRequest(
        adapter, plain(text), most, (), how, (seed,), logprobs=True, constraint=constraint
    )


WAYS = ("cascade", "padded", "plain", "uncached")


@pytest.fixture(scope="module")
def engines(_loaded: LoadedModel) -> dict[str, ModelEngine]:
    """An engine for each way, with the same weights."""
    made = {}
    for way in WAYS:
        loaded = replace(_loaded, model=copy.deepcopy(_loaded.model))
        engine = made[way] = make_engine(loaded, make_adapters(loaded))
        if way != "cascade":
            paths = Paths(way, "packed")  # type: ignore[arg-type]
            engine.prefixes = prefix_cache.PrefixCache(engine.adapters, engine.limits, paths)
            engine.decoder.prefixes = engine.prefixes
    return made


def alike(one: Sequence[Generation], other: Sequence[Generation]) -> None:
    assert [(g.text, g.tokens, g.truncated) for g in one] == [
        (g.text, g.tokens, g.truncated) for g in other
    ]
    for mine, theirs in zip(one, other, strict=True):
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)


requests = st.builds(
    asked,
    st.text("abcdefgh ", min_size=1, max_size=20),
    st.sampled_from([None, NUMBER, CHOICE, SCHEMA]),
    st.sampled_from([GREEDY, DIVERSE, SAMPLED]),
    most=st.sampled_from([2, 30]),
    seed=st.integers(0, 3),
    adapter=st.sampled_from(["a", None]),
)


@settings(max_examples=15)
@given(st.lists(requests, min_size=1, max_size=4))
def test_every_way_gives_what_each_request_gets_alone(
    engines: dict[str, ModelEngine], batch: list[DecodeRequest]
) -> None:
    expected: list[Decoded] = []
    for request in batch:
        engines["cascade"].forget()
        expected += engines["cascade"].answer([request])  # type: ignore[arg-type]
    for engine in engines.values():
        engine.forget()
        for request, answer, alone in zip(batch, engine.answer([*batch]), expected, strict=True):
            assert isinstance(answer, Decoded)
            alike(answer.generations, alone.generations)
            for generation in answer.generations:
                assert generation.truncated or fits(request.constraint, generation.text)


@pytest.mark.parametrize("constraint", [NUMBER, CHOICE, SCHEMA])
@pytest.mark.parametrize("how", [GREEDY, DIVERSE, SAMPLED])
def test_outputs_fit(
    engines: dict[str, ModelEngine], constraint: Constraint, how: Decoding
) -> None:
    engine = engines["cascade"]
    free = DecodeRequest("a", plain("x"), 30)
    (unbound, *answers) = engine.answer(
        [free, *(asked(f"text {n}", constraint, how, seed=n) for n in range(6))]
    )
    texts = set()
    for answer in answers:
        assert isinstance(answer, Decoded)
        for generation in answer.generations:
            assert not generation.truncated
            assert fits(constraint, generation.text)
            texts.add(generation.text)
    if how != GREEDY:
        assert len(texts) > 2
    # Beside them, the free one stays as it is.
    engine.forget()
    (alone,) = engine.answer([free])
    alike(unbound.generations, alone.generations)  # type: ignore[union-attr]


def brute_force(
    adapters: Adapters, adapter: str | None, prompt: Sequence[int], ids: Sequence[int], mask: Any
) -> list[float]:
    """Each token's log-probability among those allowed, all of the text read anew."""
    found = []
    for place, token in enumerate(ids):
        row = logits(adapters, adapter, [*prompt, *ids[:place]])[-1].detach().double()
        allowed = mask[place].to(row.device)
        found.append(float(row[token] - row[allowed].logsumexp(0)))
    return found


@pytest.mark.parametrize("constraint", [NUMBER, CHOICE, SCHEMA])
def test_logprobs_are_those_among_the_allowed_tokens(
    engines: dict[str, ModelEngine], constraint: Constraint
) -> None:
    engine = engines["cascade"]
    prompt = plain("Tell: ")
    (answer,) = engine.answer([asked("Tell: ", constraint, SAMPLED)])
    assert isinstance(answer, Decoded)
    grammar = engine.tokens.grammar(constraint, prompt)
    assert grammar is not None
    for generation in answer.generations:
        mask = grammar.allowed(generation.tokens, 258)
        ids = engine.tokens.encode(prompt).ids
        expected = brute_force(engine.adapters, "a", ids, generation.tokens, mask)
        assert generation.token_logprobs is not None
        values = [value for _, value in generation.token_logprobs]
        assert values == pytest.approx(expected, abs=1e-4)
        assert generation.logprob == pytest.approx(sum(expected), abs=1e-4)
        forced = mask.sum(1) == 1
        assert forced.any()
        assert not forced.all()
        assert [value for value, only in zip(values, forced, strict=True) if only] == [0.0] * int(
            forced.sum()
        )


def test_an_output_that_is_cut_off_is_truncated(engines: dict[str, ModelEngine]) -> None:
    (answer,) = engines["cascade"].answer([asked("x", SCHEMA, most=5)])
    assert isinstance(answer, Decoded)
    (generation,) = answer.generations
    assert (len(generation.tokens), generation.truncated) == (5, True)
    assert generation.text.startswith("{")


def test_an_invalid_constraint_fails_alone(engines: dict[str, ModelEngine]) -> None:
    session = engines["cascade"].session()
    bad, good = session.add(asked("x", Constraint("regex", "("))), session.add(asked("x", NUMBER))
    with pytest.raises(UsageError, match="cannot be used"):
        session.step()
    while session.busy:
        session.step()
    assert isinstance(bad.exception(0), UsageError)
    answer = good.result(0)
    assert isinstance(answer, Decoded)
    assert fits(NUMBER, answer.generations[0].text)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("at_once", [3, 512])
def test_scores_are_those_among_the_allowed_tokens(
    engines: dict[str, ModelEngine], way: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_LOGITS_AT_ONCE", at_once)
    engine = engines[way]
    engine.forget()
    prompt = plain("Score: ")
    ids = engine.tokens.encode(prompt).ids
    completions = [Completion(ids, 0, engine.tokens.completion("free"))]
    expected = [
        brute_force(engine.adapters, "a", ids, completions[0].tokens, torch.ones(4, 258) > 0)
    ]
    for constraint in (NUMBER, CHOICE, SCHEMA):
        (answer,) = engine.answer([asked("Score: ", constraint)])
        assert isinstance(answer, Decoded)
        tokens = answer.generations[0].tokens
        grammar = engine.tokens.grammar(constraint, prompt)
        assert grammar is not None
        completions.append(Completion(ids, 0, tokens, grammar))
        expected.append(
            brute_force(engine.adapters, "a", ids, tokens, grammar.allowed(tokens, 258))
        )
    found = scoring.score(engine.prefixes, "a", completions, keep=True)
    assert found == pytest.approx([sum(each) for each in expected], abs=1e-4)


# With gradients

LEARNING = ("packed", "plain")


def scored(
    loaded: LoadedModel, way: str, frozen: int | None, adapter: str | None = "a"
) -> tuple[Adapters, list[Completion], torch.Tensor]:
    """Completions that were decoded under constraints, and a free one, scored together."""
    engine = make_engine(loaded, make_adapters(loaded))
    engine.prefixes.paths = Paths("cascade", way)  # type: ignore[arg-type]
    prompt = plain("A prompt that is longer than what is shared at least: ")
    ids = engine.tokens.encode(prompt).ids
    length = len(ids) if frozen is None else frozen
    completions = [Completion(ids, length, engine.tokens.completion("free"))]
    for constraint in (NUMBER, CHOICE, SCHEMA):
        request = replace(asked("", constraint, SAMPLED), prompt=prompt)
        (answer,) = engine.answer([request])
        assert isinstance(answer, Decoded)
        grammar = engine.tokens.grammar(constraint, prompt)
        completions += [Completion(ids, length, g.tokens, grammar) for g in answer.generations]
    completions = list(dict.fromkeys(completions))
    return engine.adapters, completions, likelihoods(engine.prefixes, adapter, completions)


@pytest.mark.parametrize("way", LEARNING)
def test_likelihoods_are_those_among_the_allowed_tokens(tiny_model: LoadedModel, way: str) -> None:
    adapters, completions, found = scored(tiny_model, way, 0)
    for completion, value in zip(completions, found.tolist(), strict=True):
        mask = torch.ones((len(completion.tokens), 258), dtype=torch.bool)
        if completion.grammar is not None:
            mask = completion.grammar.allowed(completion.tokens, 258)
        expected = brute_force(adapters, "a", completion.prompt, completion.tokens, mask)
        assert value == pytest.approx(sum(expected), abs=1e-4)


@pytest.mark.parametrize("frozen", [5, None])
def test_after_frozen_prefixes_both_ways_agree(tiny_model: LoadedModel, frozen: int | None) -> None:
    (_, packed_of, packed), (_, plain_of, plain_found) = (
        scored(replace(tiny_model, model=copy.deepcopy(tiny_model.model)), way, frozen)
        for way in LEARNING
    )
    assert [c[:3] for c in packed_of] == [c[:3] for c in plain_of]
    assert packed.tolist() == pytest.approx(plain_found.tolist(), abs=1e-4)


@pytest.mark.parametrize("way", LEARNING)
@pytest.mark.parametrize("frozen", [0, None])
def test_forced_tokens_have_no_gradient(
    tiny_model: LoadedModel, way: str, frozen: int | None
) -> None:
    engine = make_engine(tiny_model, make_adapters(tiny_model))
    engine.prefixes.paths = Paths("cascade", way)  # type: ignore[arg-type]
    prompt = plain("A prompt: ")
    only = Constraint("choice", '["the only text"]')
    grammar = engine.tokens.grammar(only, prompt)
    (answer,) = engine.answer([asked("A prompt: ", only)])
    assert isinstance(answer, Decoded)
    (generation,) = answer.generations
    assert (generation.text, generation.logprob) == ("the only text", 0.0)

    def gradients(grammar: Grammar | None) -> float:
        ids = engine.tokens.encode(prompt).ids
        length = len(ids) if frozen is None else frozen
        completion = Completion(ids, length, generation.tokens, grammar)
        (value,) = likelihoods(engine.prefixes, "a", [completion])
        assert (float(value.detach()) == 0.0) is (grammar is not None)
        for parameter in engine.adapters.parameters("a"):
            parameter.grad = None
        with engine.adapters.using("a"):
            value.backward()  # type: ignore[no-untyped-call]
        found = [p.grad for p in engine.adapters.parameters("a") if p.grad is not None]
        return max((float(gradient.abs().max()) for gradient in found), default=0.0)

    assert gradients(grammar) == 0.0
    assert gradients(None) > 0.0
