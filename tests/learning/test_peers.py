"""How work is shared out: the same on all processes, and evenly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from flowtune_cli.learning.peers import ALONE, Peers, share


@dataclass
class Of:
    rank: int
    size: int


def shares(costs: list[float], size: int) -> list[list[int]]:
    return [share(costs, cast(Peers, Of(rank, size))) for rank in range(size)]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_each_item_has_one_owner(size: int) -> None:
    costs = [float(n * 7 % 5) for n in range(11)]
    found = shares(costs, size)
    assert sorted(place for own in found for place in own) == list(range(11))
    assert all(own == sorted(own) for own in found)


def test_the_dearest_is_alone_where_it_costs_as_much_as_all_others() -> None:
    assert shares([1.0, 1.0, 4.0, 1.0, 1.0], 2) == [[2], [0, 1, 3, 4]]


def test_there_may_be_nothing_to_do() -> None:
    assert shares([1.0], 3) == [[0], [], []]
    assert share([], ALONE) == []


def test_alone_all_is_at_hand() -> None:
    found: list[Any] = [ALONE.each(lambda: 1), ALONE.first(lambda: 2), ALONE.total(cast(Any, 3))]
    ALONE.check()
    assert found == [[1], 2, 3]
