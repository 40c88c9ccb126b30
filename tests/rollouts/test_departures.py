"""Where a diverse group departs, by the likeliest tokens of the groups before it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.rollouts.departures import Path, follow

VOCABULARY = 6
LENGTH = 3


def logprobs(prefix: tuple[int, ...], seed: int) -> dict[int, float]:
    """Those of a model: some number for each token after a text."""
    values = [math.sin(1 + seed + 7 * token + 13 * hash((*prefix, token))) for token in range(6)]
    total = math.log(sum(map(math.exp, values)))
    return {token: value - total for token, value in enumerate(values)}


def top(prefix: tuple[int, ...], seed: int, count: int) -> dict[int, float]:
    found = logprobs(prefix, seed)
    return {token: found[token] for token in sorted(found, key=lambda t: -found[t])[:count]}


def beam_search(earlier: list[tuple[int, ...]], seed: int, penalty: float) -> tuple[int, ...]:
    """The next group of the diverse search, by all log-probabilities, token by token."""
    tokens: tuple[int, ...] = ()
    while len(tokens) < LENGTH:
        paid = [other[len(tokens)] for other in earlier]
        values = {t: v - penalty * paid.count(t) for t, v in logprobs(tokens, seed).items()}
        tokens += (max(values, key=lambda t: values[t]),)
    return tokens


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.5, 5.0]), st.integers(2, 5))
def test_a_group_departs_as_in_diverse_beam_search(seed: int, penalty: float, groups: int) -> None:
    earlier: list[tuple[int, ...]] = [beam_search([], seed, 0.0)]
    for _ in range(groups - 1):
        expected = beam_search(earlier, seed, penalty)
        paths = [
            Path(tokens, [top(tokens[:n], seed, groups) for n in range(LENGTH)])
            for tokens in earlier
        ]
        found = follow(paths, penalty)
        tokens = tuple(token for token, _ in found.tokens)
        assert tokens == expected[: len(tokens)]
        assert [logprob for _, logprob in found.tokens] == [
            logprobs(tokens[:n], seed)[token] for n, token in enumerate(tokens)
        ]
        # It ends with the token that no earlier group has after the same text.
        same = [other[: len(tokens)] == tokens for other in earlier]
        assert any(same) == (tokens == expected and expected in earlier)
        assert any(other[: len(tokens) - 1] == tokens[:-1] for other in earlier)
        earlier.append(expected)


def test_groups_that_have_ended_are_not_paid_for() -> None:
    first = {1: -0.1, 2: -2.5, 3: -9.0}
    ended, longer = Path([1], [first]), Path([2, 3], [first, {3: -0.2, 4: -1.9, 5: -3.0}])
    assert follow([ended, longer], 1.0).tokens == [(1, -0.1)], "it ends as the first one does"
    # 1 pays three times, 2 once; then 3 pays once, and is less likely than 4.
    found = follow([ended, ended, ended, longer], 1.8)
    assert found.tokens == [(2, -2.5), (4, -1.9)]
