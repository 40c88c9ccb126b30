"""What attends by one call is of like sizes."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.engine.like_sizes import (
    groups_of_like_lengths,
    launches_are_dear,
    like_lengths,
    size_classes,
)


@given(st.lists(st.integers(1, 200), max_size=30))
def test_suffixes_of_like_lengths_attend_together(lengths: list[int]) -> None:
    groups = like_lengths(lengths)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[i] for i in group)
        assert sum(longest - lengths[i] for i in group) <= 48


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 300)), max_size=60))
def test_no_size_of_a_class_is_twice_another(sizes: list[tuple[int, int]]) -> None:
    groups = size_classes(sizes)
    assert sorted(i for group in groups for i in group) == list(range(len(sizes)))
    for group in groups:
        assert group == sorted(group)
        for which in (0, 1):
            of_group = [sizes[i][which] for i in group]
            assert max(of_group) < 2 * max(min(of_group), 1)


def test_hundreds_of_documents_take_a_few_calls() -> None:
    sizes = [(3 + i % 9, 40 + 2 * i) for i in range(160)]
    assert len(size_classes(sizes)) <= 12


def test_calls_are_dear_on_a_gpu_alone() -> None:
    assert launches_are_dear("cuda:1")
    assert not launches_are_dear(torch.device("cpu"))
    lengths = [1, 100, 60, 99, 1]
    assert groups_of_like_lengths(lengths, "cpu") == like_lengths(lengths)
    assert groups_of_like_lengths(lengths, "cuda") == [[0, 4], [1, 3], [2]]
