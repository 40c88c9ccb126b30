"""Pairwise inference: of the two predictions of an id exactly one is answerable."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli import DataError
from flowtune_musique.pairwise import pairwise


def line(name, score, answerable=True):
    return {"id": name, "suff_raw_score": score, "predicted_answerable": answerable, "n": 1}


def verdicts(lines):
    return [given["predicted_answerable"] for given in lines]


@pytest.mark.parametrize(
    ("scores", "judged"),
    [((-0.1, -0.2), [True, False]), ((-3.0, -2.0), [False, True]), ((-1.0, -1.0), [True, False])],
)
@pytest.mark.parametrize("before", [True, False])
def test_the_higher_score_is_answerable_and_the_earlier_line_on_a_tie(scores, judged, before):
    lines, partnerless = pairwise([line("q", score, before) for score in scores])
    assert verdicts(lines) == judged
    assert partnerless == []


def test_pairs_need_not_stand_together_and_lines_keep_their_order_and_fields():
    given = [line("a", -1.0), line("b", -2.0), line("b", -0.5), line("a", -0.9)]
    lines, _ = pairwise(given)
    assert [entry["id"] for entry in lines] == ["a", "b", "b", "a"]
    assert verdicts(lines) == [False, False, True, True]
    assert all(entry["n"] == 1 for entry in lines)
    assert verdicts(given) == [True] * 4


def test_an_id_without_partner_keeps_its_verdict_and_is_told():
    lines, partnerless = pairwise([line("a", -9.0), line("b", -1.0), line("b", -2.0)])
    assert verdicts(lines) == [True, True, False]
    assert partnerless == ["a"]


def test_more_than_two_of_an_id_are_an_error():
    with pytest.raises(DataError, match="'a' stands more than twice, in predictions 1, 2, 4"):
        pairwise([line("a", -1.0), line("a", -2.0), line("b", -1.0), line("a", -3.0)])


@pytest.mark.parametrize("field", ["id", "suff_raw_score"])
def test_a_line_that_cannot_be_paired_is_an_error(field):
    bad = line("a", -2.0)
    del bad[field]
    with pytest.raises(DataError, match=f"prediction 2 has no '{field}'"):
        pairwise([line("a", -1.0), bad])


@pytest.mark.parametrize("score", [None, "-1.0", True, float("nan"), float("-inf")])
def test_a_score_that_is_not_a_finite_number_is_an_error(score):
    said = rf"prediction 2: its 'suff_raw_score' is {score!r}, not a finite number"
    with pytest.raises(DataError, match=said):
        pairwise([line("a", -1.0), line("a", score)])


def test_an_id_that_is_not_a_string_is_an_error():
    with pytest.raises(DataError, match="prediction 1: its 'id' is not a string"):
        pairwise([line(["a"], -1.0)])


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(-5, 0)), max_size=20))
def test_each_pair_has_one_of_each_and_doing_it_again_changes_nothing(drawn):
    counts: Counter[int] = Counter()
    lines = []
    for number, score in drawn:
        counts[number] += 1
        if counts[number] <= 2:
            lines.append(line(f"q{number}", score))
    paired, partnerless = pairwise(lines)
    for number, count in counts.items():
        judged = [entry["predicted_answerable"] for entry in paired if entry["id"] == f"q{number}"]
        assert (sorted(judged) == [False, True]) == (count >= 2)
        assert (f"q{number}" in partnerless) == (count == 1)
    assert pairwise(paired) == (paired, partnerless)
