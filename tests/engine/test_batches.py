"""Rows are split into forward passes with the least padding, where a pass costs some, too."""

from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.engine.batches import PASS_COSTS, batches, filled

widths_of = st.lists(st.integers(1, 300), max_size=7)


def cost(widths: list[int], split: list[list[int]]) -> int:
    return sum(max(widths[i] for i in batch) * len(batch) + PASS_COSTS for batch in split)


def cheapest(widths: list[int], budget: int) -> int:
    """By trying every way to cut the sorted rows."""
    order = sorted(range(len(widths)), key=lambda i: widths[i])
    found = []
    for count in range(len(order)):
        for cuts in combinations(range(1, len(order)), count):
            ends = [0, *cuts, len(order)]
            split = [order[a:b] for a, b in pairwise(ends)]
            fits = (max(widths[i] for i in b) * len(b) <= budget or len(b) == 1 for b in split)
            if all(fits):
                found.append(cost(widths, split))
    return min(found, default=0)


@given(widths_of, st.integers(1, 1000))
def test_every_row_once_and_nothing_cheaper(widths: list[int], budget: int) -> None:
    split = batches(widths, budget)
    assert sorted(i for batch in split for i in batch) == list(range(len(widths)))
    assert cost(widths, split) == cheapest(widths, budget)


@given(widths_of, st.integers(1, 1000))
def test_a_batch_is_within_the_budget_or_one_row(widths: list[int], budget: int) -> None:
    for batch in batches(widths, budget):
        assert len(batch) == 1 or max(widths[i] for i in batch) * len(batch) <= budget


def test_rows_of_like_widths_go_together() -> None:
    assert batches([300, 10, 12, 290], 4096) == [[3, 0], [1, 2]]


def test_prompts_that_are_laid_out_count_too() -> None:
    one, other = ("one", 2000), ("other", 2000)
    # Behind one prompt there is room for both rows, behind two there is not.
    assert batches([20, 20], 600, [one, one]) == [[0, 1]]
    assert sorted(batches([20, 20], 600, [one, other])) == [[0], [1]]


@given(widths_of, st.integers(1, 1000))
def test_passes_are_filled_in_order_and_alike(widths: list[int], budget: int) -> None:
    split = filled(widths, budget)
    assert [i for batch in split for i in batch] == list(range(len(widths)))
    for batch in split:
        assert len(batch) == 1 or sum(widths[i] for i in batch) <= budget


def test_no_pass_is_left_with_little() -> None:
    assert filled([1] * 10, 9) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert filled([9, 9, 1, 1], 9) == [[0], [1], [2, 3]]
