"""Grounded and pairwise as post-processors: what they read of lines, and what they say."""

from __future__ import annotations

import pytest

from flowtune_cli import DataError
from flowtune_cli.testing import play_with_rollouts
from flowtune_musique.flow import MusiqueAnswerable, MusiqueFull
from flowtune_musique.postprocessors import Grounded, Pairwise
from flowtune_musique.records import read_examples


@pytest.fixture
def examples(write, record):
    """A pair of MuSiQue-Full; paragraph N of the first is 'Fact number N.'"""
    pair = [record(documents=4), record(documents=4, marker="!", answerable=False)]
    return list(read_examples(write(pair), pairs=True))


def line(answer="red", support=(0,), **more):
    return {
        "id": "2hop__11_22",
        "predicted_answer": answer,
        "predicted_support_idxs": list(support),
        "predicted_answerable": True,
        **more,
    }


def rollouts(*answers):
    return [
        {
            "node": "verbose",
            "step": 9,
            "alternative": number,
            "result": None if answer is None else {"predicted_answer": answer},
        }
        for number, answer in enumerate(answers, start=1)
    ]


def apply(processor, examples, lines):
    notes = []
    done = processor.apply(MusiqueFull(), examples, lines, notes.append)
    return done, notes


def test_answers_are_grounded_in_the_chosen_documents_of_their_own_record(examples):
    lines = [line("fact number 1!", (1,), other=1), line("fact number 1!", (2, 1))]
    before = [dict(each) for each in lines]
    done, notes = apply(Grounded(), examples, lines)
    assert [each["predicted_answer"] for each in done] == ["number", "number 1!"]
    assert done[0] == {**lines[0], "predicted_answer": "number"}
    assert lines == before
    assert notes[0] == "grounded: 2 of 2 answers were changed"
    assert "2 of 2 predictions hold no other answers than the greedy one" in notes[1]


def test_answers_that_followed_alternatives_are_candidates(examples):
    lines = [
        line("blue", (3,), rollouts=rollouts("Fact", "number 3.", None, "number 3.")),
        line("number", (0,), rollouts=rollouts("Fact", "Fact")),
    ]
    done, notes = apply(Grounded(), examples, lines)
    assert [each["predicted_answer"] for each in done] == ["number 3.", "number"]
    assert notes == ["grounded: 1 of 2 answers were changed"]


def test_rollouts_of_other_nodes_are_none_of_grounded(examples):
    others = [{**each, "node": "query"} for each in rollouts("Fact")]
    done, _ = apply(Grounded(), examples[:1], [line("blue", (0,), rollouts=others)])
    assert done[0]["predicted_answer"] == "blue"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"predicted_support_idxs": [9]}, r"prediction 1: its 'predicted_support_idxs' are not a"),
        ({"predicted_support_idxs": None}, r"list of paragraphs of record '2hop__11_22'"),
        ({"predicted_answer": None}, "prediction 1 has no 'predicted_answer' that is a text"),
        ({"predicted_support_idxs": [{"idx": 0}]}, "'predicted_support_idxs' are not a list of"),
        ({"rollouts": None}, "prediction 1: its 'rollouts' are None, not a list"),
        ({"rollouts": [{"node": "verbose"}]}, "prediction 1: a rollout lacks its 'node' or 'res"),
        ({"rollouts": ["verbose"]}, "prediction 1: a rollout lacks its 'node' or 'result'"),
        ({"rollouts": [{"node": "verbose", "result": 1}]}, "prediction 1 has no 'predicted_answe"),
    ],
)
def test_lines_that_cannot_be_grounded_are_errors(change, said, examples):
    with pytest.raises(DataError, match=said):
        apply(Grounded(), examples[:1], [line() | change])


def test_pairs_are_judged_by_their_scores_and_partnerless_ids_are_told(examples):
    lines = [line(suff_raw_score=-2.0), line(suff_raw_score=-1.0)]
    done, notes = apply(Pairwise(), examples, lines)
    assert [each["predicted_answerable"] for each in done] == [False, True]
    assert notes == []
    done, notes = apply(Pairwise(), examples[:1], lines[:1])
    assert done == lines[:1]
    assert notes == [
        "pairwise: 1 ids stand once, and their predictions stay as they are: '2hop__11_22'"
    ]


def test_without_scores_the_error_says_how_to_get_them(examples):
    with pytest.raises(DataError, match=r"has no 'suff_raw_score'.*'flowtune predict --scores'"):
        apply(Pairwise(), examples, [line(), line()])


def test_grounded_comes_first_and_pairwise_is_for_full_alone():
    assert sorted([Pairwise(), Grounded()], key=lambda p: (p.order, p.name))[0].name == "grounded"
    assert MusiqueAnswerable.name not in Pairwise.tasks
    assert {*Grounded.tasks} == {MusiqueAnswerable.name, MusiqueFull.name}
    assert set(Grounded.nodes) <= MusiqueFull().nodes_by_name.keys()


@pytest.mark.parametrize("labels", [{"answerable": True}, {"answerable": False}, {"labels": False}])
def test_alternative_answers_come_with_every_record(labels, example, world):
    task = MusiqueFull()
    asked = world(verbose=("It is red.", "It is blue.", "No."), stops=(1,))
    _, rollouts = play_with_rollouts(task, asked, example(task, **labels), ["verbose"])
    assert [rollout["node"] for rollout in rollouts] == ["verbose", "verbose"]
