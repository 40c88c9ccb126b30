"""How work is shared out: the same on all processes, evenly, and with little read twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.learning.peers import ALONE, Peers
from flowtune_cli.learning.shares import Work, assign, share


@dataclass
class Of:
    """A process of several, all of which have read the same."""

    rank: int
    size: int

    def each(self, work: Callable[[], Any]) -> list[Any]:
        return [work()] * self.size


def shares(costs: list[float], size: int) -> list[list[int]]:
    work = [Work(cost) for cost in costs]
    return [share(work, cast(Peers, Of(rank, size))) for rank in range(size)]


def loads(work: list[Work], ranks: list[int], processes: int) -> list[float]:
    found = [0.0] * processes
    for each, rank in zip(work, ranks, strict=True):
        found[rank] += each.cost
    return found


def of(owner: int | None, cost: float = 10.0, *, example: int = 0, read: float = 0.0) -> Work:
    return Work(cost, {example: read}, owner)


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
    assert assign([], 3) == []


def test_owned_work_goes_to_who_has_little_to_do() -> None:
    work = [*(of(0) for _ in range(6)), of(1)]
    ranks = assign(work, 3)
    assert sorted(loads(work, ranks, 3)) == [20.0, 20.0, 30.0]
    assert ranks[6] == 1


def test_what_work_needs_is_read_once_where_it_goes() -> None:
    # To read it costs more than there is to gain.
    assert assign([of(0, read=31.0) for _ in range(4)], 2) == [0] * 4
    # Of two examples whose work could move, all that moves is of one.
    work = [of(0, example=number % 2, read=15.0) for number in range(10)]
    moved = [each for each, rank in zip(work, assign(work, 2), strict=True) if rank]
    assert len(moved) > 1
    assert len({next(iter(each.needs)) for each in moved}) == 1


def test_work_goes_to_who_has_read_what_it_needs() -> None:
    work = [of(None, 5.0 + n, example=n % 4, read=100.0) for n in range(8)]
    assert assign(work, 2, [{0, 2}, {1, 3}]) == [0, 1] * 4
    # Nobody has: what needs the same goes together.
    found = assign(work, 2)
    assert [found[n] for n in range(4)] == [found[n] for n in range(4, 8)]
    assert sorted(loads(work, found, 2)) == [34.0, 34.0]


def test_but_not_where_that_leaves_others_with_nothing_to_do() -> None:
    work = [of(None, example=n, read=1.0) for n in range(6)]
    assert sorted(loads(work, assign(work, 2, [set(range(6)), set()]), 2)) == [30.0, 30.0]


def test_processes_tell_one_another_what_they_have_read() -> None:
    class Meets(Of):
        def each(self, work: Callable[[], Any]) -> list[Any]:
            other = [n for n, need in enumerate("ab") if need == "a"]
            assert work() == [1]
            return [other, work()]

    work = [Work(1.0, {need: 9.0}) for need in "abab"]
    assert share(work, cast(Peers, Meets(1, 2)), "b".__eq__) == [1, 3]


def test_what_may_not_move_stays_and_so_does_what_is_even() -> None:
    fixed = [replace(of(0), may_move=False) for _ in range(6)]
    assert assign(fixed, 3) == [0] * 6
    assert assign([of(rank, 10.0 + rank / 100) for rank in range(3)], 3) == [0, 1, 2]


costs = st.floats(0, 1e6, allow_subnormal=False)


@given(
    st.lists(
        st.builds(of, st.integers(0, 3), costs, example=st.integers(0, 5), read=costs), max_size=30
    ),
    st.data(),
)
def test_nobody_gets_more_to_do_than_somebody_had(work: list[Work], data: Any) -> None:
    work = [replace(each, may_move=data.draw(st.booleans())) for each in work]
    ranks = assign(work, 4)
    before = loads(work, [cast(int, each.owner) for each in work], 4)
    after = loads(work, ranks, 4)
    for each, rank in zip(work, ranks, strict=True):
        assert each.may_move or rank == each.owner
    assert max(after) <= max(before) * (1 + 1e-9)
