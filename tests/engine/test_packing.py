"""Texts that begin alike share a row, and each looks back at its own tokens alone."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.engine.packing import MIN_SHARED_TOKENS, Ids, pack, tree_mask
from support.tiny import text

COMMON = text(MIN_SHARED_TOKENS, 1)
beginnings = st.sampled_from([(), COMMON, COMMON[:5], text(40, 2)])
texts = st.lists(st.tuples(beginnings, st.lists(st.integers(0, 2), max_size=5)), max_size=8).map(
    lambda pairs: [(*begin, *tail) for begin, tail in pairs]
)


@given(texts, st.sampled_from([0, MIN_SHARED_TOKENS, math.inf]))
def test_every_text_can_be_read_off_its_row(given_texts: list[Ids], min_shared: float) -> None:
    rows = pack(given_texts, min_shared)
    found = [ids for row in rows for ids in row.columns]
    assert sorted(found) == sorted({ids for ids in given_texts if ids})
    for row in rows:
        for ids, columns in row.columns.items():
            assert tuple(row.ids[column] for column in columns) == ids
            assert [row.positions[column] for column in columns] == list(range(len(ids)))


@given(texts)
def test_a_token_looks_at_what_stands_before_it_in_its_text_alone(given_texts: list[Ids]) -> None:
    rows = pack(given_texts)
    if not rows:
        return
    width = max(len(row.ids) for row in rows) + 2
    made = tree_mask(rows, width, torch.float32)
    if not made:
        assert all(list(row.columns.values()) == [list(range(len(row.ids)))] for row in rows)
        return
    for number, row in enumerate(rows):
        for columns in row.columns.values():
            for place, column in enumerate(columns):
                seen = (made["attention_mask"][number, 0, column] == 0).nonzero()[:, 0].tolist()
                assert seen == columns[: place + 1]


def test_a_beginning_is_laid_once() -> None:
    (row,) = pack([(*COMMON, 1, 2), (*COMMON, 1, 3), (*COMMON, 5), COMMON])
    assert len(row.ids) == MIN_SHARED_TOKENS + 4
    assert len(row.parents) == 5


def test_short_beginnings_and_windows_are_not_shared() -> None:
    short = COMMON[:-1]
    assert len(pack([(*short, 1), (*short, 2)])) == 2
    assert len(pack([(*COMMON, 1), (*COMMON, 2)])) == 1
    assert len(pack([(*COMMON, 1), (*COMMON, 2)], math.inf)) == 2
