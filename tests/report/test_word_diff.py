"""Marking the words that differ: nothing is lost, and what is unmarked is in both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.report.word_diff import mark_differences


@pytest.mark.parametrize(
    ("first", "second", "left", "right"),
    [
        ("a b c", "a x c", [("a ", 0), ("b", 1), (" c", 0)], [("a ", 0), ("x", 1), (" c", 0)]),
        ("same", "same", [("same", 0)], [("same", 0)]),
        ("Who is it", "", [("Who is it", 1)], []),
        ("a", "a b c", [("a", 0)], [("a ", 0), ("b c", 1)]),
        ("Paris.", "Paris", [("Paris.", 1)], [("Paris", 1)]),
    ],
)
def test_words_that_differ(
    first: str, second: str, left: list[tuple[str, int]], right: list[tuple[str, int]]
) -> None:
    assert mark_differences(first, second) == (left, right)


@given(st.text("ab \n", max_size=12), st.text("ab \n", max_size=12))
def test_nothing_is_lost_and_what_is_unmarked_is_in_both(first: str, second: str) -> None:
    sides = mark_differences(first, second)
    assert tuple("".join(text for text, _ in side) for side in sides) == (first, second)
    unmarked = ["".join(text for text, differs in side if not differs).split() for side in sides]
    assert unmarked[0] == unmarked[1]
