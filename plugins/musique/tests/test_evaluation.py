"""What is said of predictions beyond the official figures: by hops, counts and intervals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli import DataError
from flowtune_musique.evaluation import report
from flowtune_musique.intervals import intervals
from flowtune_musique.metrics import Scored, figures

units = st.sampled_from([0.0, 0.5, 2 / 3, 1.0])


def scored(name="2hop__1", answerable=True, f1=1.0, em=1.0, support=1.0, right=True):
    return Scored(name, answerable, f1, em, support, right)


@st.composite
def pairs(draw, at_least=1):
    rows = []
    for number in range(draw(st.integers(at_least, 12))):
        name = f"{draw(st.sampled_from('234'))}hop__{number}"
        for answerable in draw(st.permutations([True, False])):
            values = [draw(units) for _ in range(3)]
            rows.append(Scored(name, answerable, *values, draw(st.booleans())))
    return rows


def test_an_id_without_a_pair_is_one_of_all_ids():
    whole = [scored("4hop1__1"), scored("4hop1__1", answerable=False)]
    with pytest.raises(DataError, match="1 of 2 ids: '2hop__2'"):
        report([*whole, scored("2hop__2", answerable=False)])


def test_a_report_worked_out_by_hand():
    found = report(
        [
            scored("2hop__1", f1=0.5, em=0.0),
            scored("2hop__1", answerable=False),
            scored("4hop1__2", support=0.5),
            scored("4hop1__2", answerable=False, right=False),
        ]
    )
    hops = found.pop("by_hops")
    assert found.pop("counts") == {"records": 4, "answerable": 2, "unanswerable": 2, "pairs": 2}
    assert list(found.pop("intervals")) == list(found)
    assert found == {
        "answer_f1": 0.75,
        "answer_em": 0.5,
        "support_f1": 0.75,
        "group_answer_sufficiency_f1": 0.25,  # the second pair was judged wrongly
        "group_support_sufficiency_f1": 0.5,
        "sufficiency_accuracy": 0.75,
    }
    assert list(hops) == ["2hop", "4hop"]
    assert hops["2hop"]["answer_f1"] == 0.5
    assert hops["2hop"]["group_answer_sufficiency_f1"] == 0.5
    assert hops["4hop"]["sufficiency_accuracy"] == 0.5
    assert hops["4hop"]["counts"]["records"] == 2


def test_answerable_has_nothing_of_sufficiency_and_odd_ids_are_other_hops():
    found = report([scored("2hop__1"), scored("question", f1=0.0)])
    assert not [name for name in found if "sufficiency" in name]
    assert found["counts"] == {"records": 2}
    assert found["by_hops"]["other"]["answer_f1"] == 0.0


@given(pairs())
def test_the_official_figures_stand_first_and_are_as_they_are(rows):
    official = figures(rows)
    found = report(rows)
    assert list(found)[: len(official)] == list(official)
    assert {name: found[name] for name in official} == official
    parts = found["by_hops"].values()
    assert sum(part["counts"]["records"] for part in parts) == len(rows)
    # A figure is the mean of its parts by hops, but for their rounding.
    for name in official:
        total = sum(part[name] * part["counts"]["pairs"] for part in parts)
        assert total / found["counts"]["pairs"] == pytest.approx(found[name], abs=1.1e-3)


@given(pairs())
def test_figures_lie_in_their_intervals_or_at_their_ends(rows):
    found = report(rows)
    for name, (low, high) in found["intervals"].items():
        assert 0 <= low <= high <= 1
        if low == high and len(rows) >= 12:
            assert found[name] == low
    assert found["intervals"] == report(rows)["intervals"], "the same, whenever it is asked"


def test_an_interval_is_that_of_the_normal_approximation_where_that_holds():
    values = [float(number % 4 == 0) for number in range(400)]
    low, high = intervals({"a": values})["a"]
    half = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert low == pytest.approx(0.25 - half, abs=0.01)
    assert high == pytest.approx(0.25 + half, abs=0.01)


def test_pairs_are_resampled_as_one():
    """Had the members of a pair been drawn apart, the interval would be narrower."""
    rows = []
    for number in range(40):
        right = number % 2 == 0
        rows += [
            scored(f"2hop__{number}", right=right),
            scored(f"2hop__{number}", answerable=False, right=right),
        ]
    found = report(rows)["intervals"]
    low, high = found["group_answer_sufficiency_f1"]
    assert high - low == pytest.approx(2 * 1.96 * (0.25 / 40) ** 0.5, abs=0.05)
    low, high = found["sufficiency_accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * (0.25 / 80) ** 0.5, abs=0.05)


def test_nothing_comes_of_nothing_and_one_value_has_no_width():
    assert intervals({"a": []}) == {}
    assert intervals({}) == {}
    assert intervals({"a": [0.5], "b": [1.0]}) == {"a": [0.5, 0.5], "b": [1.0, 1.0]}
