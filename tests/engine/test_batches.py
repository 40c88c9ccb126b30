"""Rows are split into forward passes with the least padding, where a pass costs some, too."""

from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.engine.batches import PASS_COST, cheapest_batches, even_batches

lengths_of = st.lists(st.integers(1, 300), max_size=7)


def cost(lengths: list[int], split: list[list[int]]) -> int:
    return sum(max(lengths[i] for i in batch) * len(batch) + PASS_COST for batch in split)


def cheapest(lengths: list[int], budget: int) -> int:
    """By trying every way to cut the sorted rows."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    found = []
    for count in range(len(order)):
        for cuts in combinations(range(1, len(order)), count):
            ends = [0, *cuts, len(order)]
            split = [order[a:b] for a, b in pairwise(ends)]
            fits = (max(lengths[i] for i in b) * len(b) <= budget or len(b) == 1 for b in split)
            if all(fits):
                found.append(cost(lengths, split))
    return min(found, default=0)


@given(lengths_of, st.integers(1, 1000))
def test_every_row_once_and_nothing_cheaper(lengths: list[int], budget: int) -> None:
    split = cheapest_batches(lengths, budget)
    assert sorted(i for batch in split for i in batch) == list(range(len(lengths)))
    assert cost(lengths, split) == cheapest(lengths, budget)


@given(lengths_of, st.integers(1, 1000))
def test_a_batch_is_within_the_budget_or_one_row(lengths: list[int], budget: int) -> None:
    for batch in cheapest_batches(lengths, budget):
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


def test_rows_of_like_lengths_go_together() -> None:
    assert cheapest_batches([300, 10, 12, 290], 4096) == [[3, 0], [1, 2]]


@given(lengths_of, st.integers(1, 1000))
def test_packed_rows_stay_in_order(lengths: list[int], budget: int) -> None:
    split = even_batches(lengths, budget)
    assert [i for batch in split for i in batch] == list(range(len(lengths)))
    for batch in split:
        assert len(batch) == 1 or sum(lengths[i] for i in batch) <= budget


def test_no_pass_is_left_with_little() -> None:
    assert even_batches([1] * 10, 9) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert even_batches([9, 9, 1, 1], 9) == [[0], [1], [2, 3]]
