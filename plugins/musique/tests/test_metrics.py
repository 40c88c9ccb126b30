"""The official figures: cases worked out by hand, and what must hold for any predictions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli import DataError, Example
from flowtune_musique.metrics import evaluate, support_f1
from flowtune_musique.records import Gold

answers = st.text(alphabet="ab the.", max_size=8)
supports = st.frozensets(st.integers(0, 5), max_size=4)


def example(name="q", answers=("red",), support=(0, 1), answerable=True):
    gold = Gold(tuple(answers), frozenset(support), answerable)
    return Example(f"{name}@{answerable}", {"record_id": name}, gold)


def line(name="q", answer="red", support=(0, 1), answerable=True):
    return {
        "id": name,
        "predicted_answer": answer,
        "predicted_support_idxs": list(support),
        "predicted_answerable": answerable,
    }


@pytest.mark.parametrize(
    ("predicted", "gold", "f1"),
    [
        ([], [], 1.0),
        ([], [1], 0.0),
        ([1], [], 0.0),
        ([1, 2], [3], 0.0),
        ([1, 2, 3], [3, 1], 0.8),
        ([2, 2, 2], [2], 1.0),
    ],
)
def test_support_f1(predicted, gold, f1):
    assert support_f1(predicted, gold) == pytest.approx(f1)


@given(supports, supports)
def test_support_f1_is_symmetric_and_1_for_equal_sets_alone(first, second):
    value = support_f1(first, second)
    assert 0 <= value <= 1
    assert value == support_f1(second, first)
    assert (value == 1) == (first == second)


@pytest.mark.parametrize(
    ("predicted", "golds", "f1", "em"),
    [
        ("The Red!", ["red"], 1.0, 1.0),
        ("dark red", ["red"], 0.667, 0.0),
        ("dark red", ["blue", "Dark Red"], 1.0, 1.0),
        ("red red", ["red"], 0.667, 0.0),
        ("blue", ["red"], 0.0, 0.0),
        ("", ["red"], 0.0, 0.0),
        ("The.", ["red"], 0.0, 0.0),
        ("", ["The"], 1.0, 1.0),
        ("red", ["The"], 0.0, 0.0),
        ("red", ["The", "red"], 1.0, 1.0),
    ],
)
def test_answers_are_compared_after_normalisation_with_the_best_alias(predicted, golds, f1, em):
    figures = evaluate([example(answers=golds)], [line(answer=predicted)])
    assert (figures["answer_f1"], figures["answer_em"]) == (f1, em)


def test_answerable_figures_are_means_rounded_to_three_decimals():
    examples = [example("a"), example("b"), example("c", support=(0, 1, 2))]
    lines = [line("a"), line("b", answer="blue", support=[]), line("c", answer="dark red")]
    assert evaluate(examples, lines) == {
        "answer_f1": 0.556,  # (1 + 0 + 2/3) / 3
        "answer_em": 0.333,
        "support_f1": 0.6,  # (1 + 0 + 4/5) / 3
    }


def pair(name):
    return [example(name), example(name, support=(0,), answerable=False)]


@pytest.mark.parametrize(
    ("judged", "group"), [((1, 0), 1.0), ((1, 1), 0.0), ((0, 0), 0.0), ((0, 1), 0.0)]
)
def test_a_pair_counts_only_if_both_are_judged_rightly(judged, group):
    lines = [line(answerable=bool(judged[0])), line(answer="x", answerable=bool(judged[1]))]
    figures = evaluate(pair("q"), lines)
    assert figures["group_answer_sufficiency_f1"] == group
    assert figures["group_support_sufficiency_f1"] == group
    assert figures["answer_f1"] == 1.0


def test_group_figures_have_the_answerable_member_s_f1_in_any_order():
    examples = [*pair("a"), *reversed(pair("b")), *pair("c")]
    lines = [
        line("a", answer="dark red", support=[0]),
        line("a", answer="?", support=[5], answerable=False),
        line("b", answer="?", answerable=False),
        line("b", support=[0, 1, 2, 3]),
        line("c"),
        line("c"),
    ]
    assert evaluate(examples, lines) == {
        "answer_f1": 0.889,  # (2/3 + 1 + 1) / 3
        "answer_em": 0.667,
        "support_f1": 0.778,  # (2/3 + 2/3 + 1) / 3
        "group_answer_sufficiency_f1": 0.556,  # (2/3 + 1 + 0) / 3
        "group_support_sufficiency_f1": 0.444,  # (2/3 + 2/3 + 0) / 3
    }


@st.composite
def full_data(draw):
    examples, lines = [], []
    for number in range(draw(st.integers(1, 4))):
        golds = draw(st.lists(answers, min_size=1, max_size=3))
        support = draw(supports)
        for answerable in draw(st.permutations([True, False])):
            examples.append(example(f"q{number}", golds, support, answerable))
            lines.append(
                line(f"q{number}", draw(answers), sorted(draw(supports)), draw(st.booleans()))
            )
    return examples, lines


@given(full_data())
def test_figures_are_bounded_and_groups_never_beat_the_answerable_examples(data):
    figures = evaluate(*data)
    assert all(0 <= value <= 1 for value in figures.values())
    assert figures["answer_em"] <= figures["answer_f1"]
    assert figures["group_answer_sufficiency_f1"] <= figures["answer_f1"]
    assert figures["group_support_sufficiency_f1"] <= figures["support_f1"]


@given(full_data())
def test_gold_predictions_score_1_everywhere(data):
    examples, _ = data
    perfect = [
        line(e.record_id, e.gold.answers[-1], sorted(e.gold.support), e.gold.answerable)
        for e in examples
    ]
    assert set(evaluate(examples, perfect).values()) == {1.0}


@given(full_data(), answers)
def test_an_alias_more_never_lowers_an_answer(data, alias):
    examples, lines = data
    richer = [
        example(e.record_id, (*e.gold.answers, alias), e.gold.support, e.gold.answerable)
        for e in examples
    ]
    before, after = evaluate(examples, lines), evaluate(richer, lines)
    assert all(after[name] >= before[name] for name in before)


@given(full_data())
def test_what_is_predicted_for_unanswerable_examples_does_not_matter_but_for_the_verdict(data):
    examples, lines = data
    others = [
        given
        if e.gold.answerable
        else {**given, "predicted_answer": "?", "predicted_support_idxs": []}
        for e, given in zip(examples, lines, strict=True)
    ]
    assert evaluate(examples, others) == evaluate(examples, lines)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b"], "no prediction for 'c'"),
        (["a", "b", "c", "d"], "predictions for ids that are not asked for: 'd'"),
        (["a", "b", "c", "c"], "predictions for ids that are not asked for: 'c'"),
        (["a", "x", "c"], "no prediction for 'b'; predictions for ids .* asked for: 'x'"),
        (["a", "c", "b"], "another order than the data: number 2 is for 'c' and should be for 'b'"),
        ([], "no prediction for 'a', 'b', 'c'"),
    ],
)
def test_predictions_with_other_ids_are_an_error_that_names_them(ids, message):
    with pytest.raises(DataError, match=message):
        evaluate([example(name) for name in "abc"], [line(name) for name in ids])


def test_a_long_list_of_ids_is_cut():
    with pytest.raises(DataError, match="'q4' and 15 more"):
        evaluate([example(f"q{number}") for number in range(20)], [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predicted_answer": None}, "prediction 2: field 'predicted_answer': Input"),
        (
            {"predicted_support_idxs": ["1"]},
            "2: field 'predicted_support_idxs.0': Input",
        ),
        ({"predicted_answerable": "yes"}, "prediction 2: field 'predicted_answerable': Input"),
    ],
)
def test_a_bad_prediction_is_named_with_its_field(change, message):
    with pytest.raises(DataError, match=message):
        evaluate([example("a"), example("b")], [line("a"), line("b") | change])


def test_a_missing_field_is_named():
    with pytest.raises(DataError, match="prediction 1: field 'predicted_answer': Field required"):
        evaluate([example()], [{"id": "q"}])


@pytest.mark.parametrize("labels", [(True, True), (False, False), (False,)])
def test_group_figures_need_one_of_each_kind(labels):
    examples = [*pair("a"), *(example("b", answerable=label) for label in labels)]
    lines = [line(e.record_id) for e in examples]
    with pytest.raises(DataError, match=r"one unanswerable record of each id; .* for 'b'"):
        evaluate(examples, lines)


def test_examples_without_labels_cannot_be_evaluated():
    unlabelled = Example("q", {"record_id": "q"})
    with pytest.raises(DataError, match="the record 'q' has no labels"):
        evaluate([unlabelled], [line()])
