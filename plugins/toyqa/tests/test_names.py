"""Names are invented, distinct, and of one split alone."""

from __future__ import annotations

import random
import re
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_toyqa.names import ENDS, SHAPES, SPLITS, Namer, split_of, vocabulary
from flowtune_toyqa.world import RELATIONS


def words(split: str) -> set[str]:
    return {word for part in ENDS for word in vocabulary(part, split)}


def test_the_splits_share_no_word():
    assert not words("train") & words("test")


@pytest.mark.parametrize("part", ENDS)
def test_the_parts_of_names_share_no_word_and_have_plenty_in_each_split(part):
    for split in SPLITS:
        assert len(vocabulary(part, split)) > 250
    for one, other in combinations(ENDS, 2):
        assert not {*vocabulary(one, "train")} & {*vocabulary(other, "train")}
        assert not {*vocabulary(one, "test")} & {*vocabulary(other, "test")}


def test_the_partition_is_fixed():
    """Pinned: an adapter trained today must not meet a training word in a test of tomorrow."""
    assert [split_of(word) for word in ("Tavo", "Quelda")] == ["test", "test"]
    assert [split_of(word) for word in ("Flenova", "Unwey")] == ["train", "train"]


def test_no_invented_word_is_a_word_of_the_sentences():
    texts = [t for r in RELATIONS for t in (r.document, r.phrase, r.question)]
    texts += [re.sub(r"\{\w+\}", "", shape) for shapes in SHAPES.values() for shape in shapes]
    used = {word.lower() for text in texts for word in re.findall(r"\w+", text)}
    assert not used & {word.lower() for split in SPLITS for word in words(split)}


@given(st.integers(), st.sampled_from(SPLITS))
def test_the_names_of_one_namer_share_no_invented_word(seed, split):
    namer = Namer(random.Random(seed), split)
    names = [namer.name(kind) for kind in SHAPES for _ in range(5)]
    invented = [word for name in names for word in name.split() if word in words(split)]
    assert len(invented) == len(set(invented))
    assert all(any(word in words(split) for word in name.split()) for name in names)
