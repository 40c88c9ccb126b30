"""Exact match and token F1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.rewards import exact_match, normalize, token_f1

# Few words and separators, so that answers overlap.
texts = st.lists(
    st.sampled_from(["a", "the", "The", "cat", "Cat!", "sat", "an", "--", "mat's", " ", "\n"])
).map(" ".join) | st.text(max_size=12)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat sat.", "cat sat"),
        ("an apple a day", "apple day"),
        ("Athens", "athens"),
        ("U.S.A.", "usa"),
        ("state-of-the-art", "stateoftheart"),
        (" \n\t", ""),
        ("The", ""),
        ("Ångström", "ångström"),
    ],
)
def test_normalize(text: str, normal: str) -> None:
    assert normalize(text) == normal


@pytest.mark.parametrize(
    ("answer", "golds", "f1"),
    [
        ("the cat sat", ["cat"], 2 * 1 / (2 + 1)),
        ("cat cat", ["cat"], 2 * 1 / (2 + 1)),
        ("cat cat sat", ["cat cat mat"], 2 * 2 / (3 + 3)),
        ("sat cat", ["Cat sat!"], 1.0),
        ("dog", ["cat"], 0.0),
        ("cat", ["dog", "the cat", "cat sat"], 1.0),
        ("", ["cat"], 0.0),
        ("cat", [""], 0.0),
        ("the", [""], 1.0),
        ("cat", [], 0.0),
    ],
)
def test_token_f1(answer: str, golds: list[str], f1: float) -> None:
    assert token_f1(answer, golds) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "golds", "match"),
    [
        ("The Cat.", ["cat"], 1.0),
        ("sat cat", ["cat sat"], 0.0),
        ("cat", ["dog", "a cat"], 1.0),
        ("cat", [], 0.0),
        ("", ["the"], 1.0),
    ],
)
def test_exact_match(answer: str, golds: list[str], match: float) -> None:
    assert exact_match(answer, golds) == match


@given(texts)
def test_normalize_settles(text: str) -> None:
    once = normalize(text)
    assert once == " ".join(once.split())
    assert normalize(once.upper()) == normalize(once) or not once.isascii()


@given(texts, texts)
def test_f1_is_symmetric_and_bounded(first: str, second: str) -> None:
    f1 = token_f1(first, [second])
    assert f1 == token_f1(second, [first])
    assert 0.0 <= f1 <= 1.0
    shared = set(normalize(first).split()) & set(normalize(second).split())
    both_empty = normalize(first) == normalize(second) == ""
    assert (f1 > 0) == (bool(shared) or both_empty)


@given(texts, st.lists(texts, max_size=3))
def test_exact_match_implies_full_f1(answer: str, golds: list[str]) -> None:
    if exact_match(answer, golds):
        assert token_f1(answer, golds) == 1.0
    assert exact_match(answer, [*golds, answer]) == 1.0
    assert token_f1(answer, [*golds, answer]) == 1.0


@given(texts, st.lists(texts, max_size=3), texts)
def test_another_gold_never_hurts(answer: str, golds: list[str], another: str) -> None:
    assert token_f1(answer, [*golds, another]) >= token_f1(answer, golds)
    assert exact_match(answer, [*golds, another]) >= exact_match(answer, golds)


def test_a_single_gold_is_no_sequence_of_letters() -> None:
    assert exact_match("The Nile", "nile") == 1.0
    assert exact_match("n", "nile") == 0.0
    assert token_f1("the river Nile", "Nile") == token_f1("the river Nile", ["Nile"]) > 0
