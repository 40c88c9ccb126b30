"""Where a diverse group leaves the groups before it.

In diverse beam search (see ``engine.choosing``) a group pays in each place for the tokens that
earlier groups chose there. As long as it chooses the same as one of them, it is the same text, of
which the likeliest tokens are known. So the place where it first chooses another token is found
exactly, without a server. What follows there would need a request a token: from there on the group
is greedy, and pays nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Path(NamedTuple):
    """An output that was decoded.

    Args:
        tokens: its token ids.
        top: in each place, the likeliest tokens with their log-probabilities, as many as there are
            groups, or more.
    """

    tokens: Sequence[int]
    top: Sequence[Mapping[int, float]]


class Departed(NamedTuple):
    """The beginning of a group, up to the token that sets it apart, or to the end of all.

    Args:
        tokens: with their log-probabilities.
        top: in each place, the likeliest tokens.
    """

    tokens: list[tuple[int, float]]
    top: list[Mapping[int, float]]


def follow(earlier: Sequence[Path], penalty: float) -> Departed:
    """Begin the group that comes after earlier ones.

    Args:
        penalty: taken from a token's log-probability for each earlier group that chose it in the
            same place.
    """
    found = Departed([], [])
    same = list(earlier)
    place = 0
    while same := [path for path in same if place < len(path.tokens)]:
        top = same[0].top[place]
        paid = [path.tokens[place] for path in earlier if place < len(path.tokens)]

        def value(item: tuple[int, float], paid: Sequence[int] = paid) -> tuple[float, int]:
            token, logprob = item
            return logprob - penalty * paid.count(token), -token

        token, logprob = max(top.items(), key=value)
        found.tokens.append((token, logprob))
        found.top.append(top)
        same = [path for path in same if path.tokens[place] == token]
        place += 1
    return found
