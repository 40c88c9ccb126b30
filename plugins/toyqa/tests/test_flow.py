"""The flow makes the calls of the figure, states its rewards in time, and earns its credit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowtune_cli import DataError, Outcome
from flowtune_cli.testing import assert_replays, check_task, deviate, play
from flowtune_toyqa.flow import support_f1


def first(task, split="train"):
    return next(iter(task.examples(None, split)))


def run(task, example, script):
    episode = play(task, script.engine(), example)
    assert episode.failure is None, episode.failure.traceback
    return episode


def trace(task, example, script):
    return deviate(task, script.engine(), example)


def test_the_task_is_complete(task):
    check_task(task())


@pytest.mark.parametrize("hops", [2, 3])
def test_the_flow_replays(task, hops):
    made = task(hops=hops)
    assert_replays(made, [first(made), first(made, "test")])


@pytest.mark.parametrize("hops", [2, 3, 5])
def test_a_perfect_episode(task, oracle, hops):
    made = task(hops=hops)
    example = first(made)
    episode = run(made, example, oracle(example))
    assert [s.node for s in episode.steps] == ["query", "retrieve", "stop"] * hops + ["answer"]
    assert episode.result == {"answer": example.gold.answer, "support": [*example.gold.support]}
    assert episode.reward_means() == {"support_f1": 1.0, "answer_f1": 1.0, "answer_em": 1.0}
    assert not episode.targets


def test_stop_is_not_asked_after_the_last_retrieval(task, oracle):
    made = task()
    example = first(made)
    episode = run(made, example, oracle(example, stops=False))
    loop = ["query", "retrieve", "stop"]
    assert [s.node for s in episode.steps] == [*loop, *loop, "query", "retrieve", "answer"]
    assert episode.reward_means()["support_f1"] == pytest.approx(2 * 2 / (3 + 2))


def test_retrieval_ends_with_the_documents(task, oracle):
    made = task(documents=2, max_retrievals=9)
    example = first(made)
    episode = run(made, example, oracle(example, stops=False))
    assert [s.node for s in episode.steps].count("retrieve") == 2


def test_retrieval_ends_where_an_example_has_fewer_documents(task, oracle):
    made = task(max_retrievals=9)
    example = first(made)
    two = replace(example, inputs={**example.inputs, "documents": example.documents[:2]}, gold=None)
    episode = run(made, two, oracle(example, stops=False))
    loop = ["query", "retrieve"]
    assert [s.node for s in episode.steps] == [*loop, "stop", *loop, "answer"]


def test_a_found_document_is_no_candidate_again(task, oracle):
    made = task()
    example = first(made)
    episode = run(made, example, oracle(example, stops=False))
    offered = [
        {option.value for option in s.response.options}
        for s in episode.steps
        if s.node == "retrieve"
    ]
    found = [example.documents[index] for index in episode.result["support"]]
    assert offered == [{*example.documents} - {*found[:n]} for n in range(3)]


def test_later_nodes_are_shown_the_question_and_what_was_found(task, oracle):
    made = task()
    example = first(made)
    episode = run(made, example, oracle(example))
    chain = [example.documents[index] for index in example.gold.support]
    query, retrieve, stop, second, _, _, answer = episode.steps
    for step in (query, stop, second, answer):
        assert example.question in step.prompt_text
    assert [document in query.prompt_text for document in chain] == [False, False]
    assert [document in stop.prompt_text for document in chain] == [True, False]
    assert [document in second.prompt_text for document in chain] == [True, False]
    assert [document in answer.prompt_text for document in chain] == [True, True]
    assert retrieve.prompt_text.endswith("Question: 0")


def test_rewards_are_stated_as_soon_as_they_are_known(task, oracle):
    made = task()
    example = first(made)
    episode = run(made, example, oracle(example))
    stated = [(r.name, episode.steps[r.steps - 1].node) for r in episode.rewards]
    assert stated == [("support_f1", "stop"), ("answer_f1", "answer"), ("answer_em", "answer")]


def test_credit_comes_from_deviations_at_every_node(task, oracle):
    made = task()
    example = first(made)
    given, family = "Nobody", "Nothing"
    script = oracle(
        example, queries=("nothing",), answers=(given, f"{example.gold.answer} {family}")
    )
    result = trace(made, example, script)
    outcomes = {}
    for deviation in result.deviations:
        outcomes.setdefault(deviation.node, set()).add(deviation.outcome)
    worse = {Outcome.GREEDY_BETTER}
    assert outcomes == {"query": worse, "retrieve": worse, "stop": worse, "answer": worse}
    for preference in result.preferences:
        greedy = result.episode.steps[preference.step].output
        assert preference.chosen == greedy
        assert preference.rejected != greedy


def test_a_better_query_is_preferred(task, oracle):
    made = task(documents=6)
    example = first(made)

    class Lost(type(oracle(example))):
        def write(self, node, prompt, output):
            if node != "query":
                return super().write(node, prompt, output)
            return super().write(node, prompt, output - 1) if output else "lost"

    result = trace(made, example, Lost(example))
    preferred = [p for p in result.preferences if p.node == "query"]
    assert {p.chosen.text for p in preferred} <= {"0", "1"}
    assert preferred
    assert all(p.margin > 0 for p in preferred)


def test_rollouts_of_the_retrieving_nodes_end_before_the_answer(task, oracle):
    made = task()
    example = first(made)
    result = trace(made, example, oracle(example, queries=("nothing",)))
    rollouts = [d.rollout for d in result.deviations]
    assert rollouts
    for rollout in rollouts:
        assert rollout.stopped_early
        assert "answer" not in [step.node for step in rollout.steps]


def test_predictions_and_their_figures(task, oracle):
    made = task()
    examples = list(made.examples(None, "test"))[:2]
    right = made.prediction(examples[0], run(made, examples[0], oracle(examples[0])).result)
    assert right == {
        "id": "test-0",
        "answer": examples[0].gold.answer,
        "support": [*examples[0].gold.support],
    }
    gold = examples[1].gold
    half = {"id": "test-1", "answer": f"It is {gold.answer}.", "support": [gold.support[0]]}
    figures = made.evaluate(examples, [right, half])
    words = len(gold.answer.split())
    assert figures == {
        "answer_em": 0.5,
        "answer_f1": pytest.approx((1 + 2 * words / (words + words + 2)) / 2),
        "support_f1": pytest.approx((1 + 2 / 3) / 2),
    }


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        ({"id": "test-1", "answer": "x", "support": []}, "order of the examples"),
        ({"id": "test-0", "support": []}, "needs an 'answer'"),
        ({"id": "test-0", "answer": "x"}, "a 'support'"),
        ({"id": "test-0", "answer": "x", "support": ["0"]}, "a 'support'"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(task, prediction, message):
    made = task()
    with pytest.raises(DataError, match=message):
        made.evaluate([first(made, "test")], [prediction])


def test_a_missing_prediction_is_refused(task):
    made = task()
    with pytest.raises(DataError, match="0 predictions for 1 examples"):
        made.evaluate([first(made, "test")], [])


@pytest.mark.parametrize(
    ("found", "value"), [([], 0.0), ([1], 2 / 3), ([1, 2], 1.0), ([2, 1], 1.0), ([0, 1, 2], 0.8)]
)
def test_support_f1(found, value):
    assert support_f1(found, (1, 2)) == pytest.approx(value)


def test_inputs_of_ones_own_have_no_rewards(task, oracle):
    made = task()
    example = first(made)
    own = made.example_from(dict(example.inputs))
    episode = run(made, own, oracle(example))
    assert episode.result["answer"] == example.gold.answer
    assert episode.rewards == []
