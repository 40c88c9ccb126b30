"""Diverse groups, written by a server that knows nothing but greedy outputs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.engine.rows import Output, TokenizedRequest
from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.flow.request import Decoding
from flowtune_cli.rollouts.outputs import Writer
from flowtune_cli.rollouts.server import Ask, Written

END = 0
PROMPT = (7, 8)


def logprobs(prefix: tuple[int, ...], seed: int) -> dict[int, float]:
    """Those of a model: some number for each of six tokens after a text."""
    values = [math.sin(1 + seed + 7 * token + 13 * hash((*prefix, token))) for token in range(6)]
    total = math.log(sum(map(math.exp, values)))
    return {token: value - total for token, value in enumerate(values)}


def serve(ask: Ask, seed: int) -> Written:
    """What a server writes greedily, with the likeliest tokens in each place."""
    tokens: list[int] = []
    tops: list[dict[int, float]] = []
    while len(tokens) < ask.max_tokens and END not in tokens:
        found = logprobs((*ask.prompt[len(PROMPT) :], *tokens), seed)
        best = sorted(found, key=lambda token: -found[token])
        tokens.append(best[0])
        tops.append({token: found[token] for token in best[: ask.top]})
    values = tuple(top[token] for token, top in zip(tokens, tops, strict=True))
    return Written(tuple(tokens), values, tuple(tops), "")


def beam_search(earlier: list[tuple[int, ...]], seed: int, how: Decoding) -> tuple[int, ...]:
    """The next group of the diverse search, by all log-probabilities, token by token."""
    tokens: tuple[int, ...] = ()
    while len(tokens) < 5 and END not in tokens:
        paid = [other[len(tokens)] for other in earlier if len(tokens) < len(other)]
        values = {
            token: value - how.diversity_penalty * paid.count(token)
            for token, value in logprobs(tokens, seed).items()
        }
        tokens += (max(values, key=lambda token: values[token]),)
    return tokens


def maybe_end(output: Output) -> None:
    if output.tokens[-1] == END or len(output.tokens) == 5:
        output.text = str(output.tokens)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.5, 5.0]), st.integers(2, 5))
def test_groups_are_those_of_diverse_beam_search(seed: int, penalty: float, groups: int) -> None:
    how = Decoding(groups=groups, diversity_penalty=penalty)
    expected: list[tuple[int, ...]] = []
    for _ in range(groups):
        expected.append(beam_search(expected, seed, how))
    request = TokenizedRequest(PROMPT, 5, (), how, ())
    steps = Writer(frozenset({END}), maybe_end).steps(request)
    asked = next(steps)
    while True:
        try:
            asked = steps.send([serve(ask, seed) for ask in asked])
        except StopIteration as stop:
            found = stop.value
            break
    assert [generation.tokens for generation in found] == expected
    for generation in found:
        values = [
            logprobs(generation.tokens[:place], seed)[token]
            for place, token in enumerate(generation.tokens)
        ]
        assert generation.logprob == pytest.approx(sum(values))


def test_too_many_groups_are_refused() -> None:
    request = TokenizedRequest(PROMPT, 5, (), Decoding(groups=21, diversity_penalty=1.0), ())
    with pytest.raises(FlowtuneError, match="multi_sample"):
        next(Writer(frozenset({END}), maybe_end).steps(request))
