"""The official figures: cases worked out by hand, and what must hold for any predictions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli import DataError, Example, normalize
from flowtune_musique.metrics import answer_f1, figures, score, support_f1
from flowtune_musique.records import Document, Gold, paragraphs_digest

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


def evaluate(examples, lines):
    return figures(score(examples, lines))


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


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.data())
def test_means_are_added_up_in_order_as_the_official_figures_are(sizes, data):
    """Not to the nearest float, as sum() does: at the edge of a rounding the two may differ."""
    examples, lines = [], []
    for number, size in enumerate(sizes):
        examples.append(example(f"q{number}", [" ".join("bcdefghij"[:size])]))
        lines.append(line(f"q{number}", " ".join("bcdefghij"[: data.draw(st.integers(0, 9))])))
    total = 0.0
    for e, given_line in zip(examples, lines, strict=True):
        gold, given = e.gold.answers[0].split(), given_line["predicted_answer"].split()
        shared = len(set(gold) & set(given))
        if shared:
            precision, recall = shared / len(given), shared / len(gold)
            total += (2 * precision * recall) / (precision + recall)
    assert evaluate(examples, lines)["answer_f1"] == round(total / len(sizes), 3)


def words(count, start=0):
    return " ".join(f"w{number}" for number in range(start, start + count))


def test_an_f1_at_the_edge_of_a_rounding_is_rounded_as_the_official_one():
    """2 / 32 is 0.0625, which rounds to 0.062; by way of precision and recall it is a bit more."""
    found = evaluate([example(answers=[words(22)])], [line(answer=words(10, 21))])
    assert found["answer_f1"] == 0.063
    gold, given = range(22), range(21, 31)
    assert evaluate([example(support=gold)], [line(support=given)])["support_f1"] == 0.063


def test_a_mean_at_the_edge_of_a_rounding_is_added_up_as_the_official_one():
    """The exact sum of these F1 is 2.3, and 2.3 / 8 would round to 0.288."""
    sizes = [(4, 5, 5), (4, 7, 5), (2, 5, 7), (1, 3, 1), *[(0, 1, 1)] * 4]
    examples = [example(f"q{n}", [words(gold)]) for n, (_, gold, _) in enumerate(sizes)]
    lines = [
        line(f"q{n}", words(given, gold - shared)) for n, (shared, gold, given) in enumerate(sizes)
    ]
    assert evaluate(examples, lines)["answer_f1"] == 0.287


def test_without_any_answerable_record_the_figures_are_0_but_there_are_no_pairs():
    assert evaluate([], []) == {"answer_f1": 0.0, "answer_em": 0.0, "support_f1": 0.0}
    with pytest.raises(DataError, match="of each id"):
        evaluate([example(answerable=False)], [line()])


@given(answers, st.lists(answers, min_size=1, max_size=3))
def test_answer_f1_is_symmetric_and_1_for_equal_bags_alone(given_answer, golds):
    best = answer_f1(given_answer, golds)
    assert best == max(answer_f1(gold, [given_answer]) for gold in golds)
    bags = [sorted(normalize(gold).split()) for gold in golds]
    assert (best == 1) == (sorted(normalize(given_answer).split()) in bags)


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


def test_the_two_predictions_of_an_id_in_the_wrong_order_are_an_error():
    examples, lines = [], []
    for answerable in (True, False):
        text = f"paragraph of the {answerable} one"
        one = example(answerable=answerable)
        documents = (Document(idx=0, title="", text=text),)
        examples.append(Example(one.id, {**one.inputs, "documents": documents}, one.gold))
        lines.append({**line(answerable=answerable), "pardigest": paragraphs_digest([text])})
    assert evaluate(examples, lines)["group_answer_sufficiency_f1"] == 1
    with pytest.raises(DataError, match="prediction 1: its 'pardigest' is not that of the para"):
        evaluate(examples, lines[::-1])


@pytest.mark.parametrize("ids", ["ab", "abcd", "axc", "acb", ""])
def test_predictions_that_are_not_those_of_the_records_are_an_error(ids):
    with pytest.raises(DataError, match="not those of the records, one each, in their order"):
        evaluate([example(name) for name in "abc"], [line(name) for name in ids])


def test_a_long_list_of_ids_is_cut():
    examples = [example(f"q{number}", answerable=False) for number in range(20)]
    with pytest.raises(DataError, match=r"not so for 20 of 20 ids: 'q0'.* 'q4' and 15 more"):
        evaluate(examples, [line(e.record_id) for e in examples])


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
    with pytest.raises(DataError, match=r"one unanswerable record of each id; .*1 of 2 ids: 'b'"):
        evaluate(examples, lines)


def test_examples_without_labels_cannot_be_evaluated():
    unlabelled = Example("q", {"record_id": "q"})
    with pytest.raises(DataError, match="the record 'q' has no labels"):
        evaluate([unlabelled], [line()])
