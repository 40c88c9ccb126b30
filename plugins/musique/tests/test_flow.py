"""The structure of the two flows: which calls, in which order, and what is stated for learning."""

from __future__ import annotations

import hashlib
import json
import math

import pytest

from flowtune_cli import Outcome, UsageError
from flowtune_cli.testing import assert_replays, check_task, deviate
from flowtune_musique.flow import MusiqueAnswerable, MusiqueFull
from flowtune_musique.settings import MusiqueSettings

QUERIES = {0: ("T3", "T1"), 1: ("T2", "T5"), 2: ("T5", "T4"), 3: ("T6", "T0")}
ROUND = ["query", "retrieve", "stop"]
ALL_ROUNDS = [*ROUND[:2], *ROUND * 2, *ROUND[:2]]


def stated(episode):
    rewards = {}
    for reward in episode.rewards:
        rewards.setdefault(reward.name, []).append(reward.value)
    return rewards


def targets(episode):
    """(node, how many times it was called before, gold) of each target."""
    return [
        (
            episode.steps[target.step].node,
            sum(
                step.node == episode.steps[target.step].node
                for step in episode.steps[: target.step]
            ),
            [document.idx for document in target.gold]
            if isinstance(target.gold, list)
            else target.gold,
        )
        for target in episode.targets
    ]


def nodes_of(episode):
    return [step.node for step in episode.steps]


@pytest.mark.parametrize("task_class", [MusiqueAnswerable, MusiqueFull])
@pytest.mark.parametrize("support", [(3, 5), (0,)])
def test_the_flow_replays(task_class, support, world, example):
    task = task_class()
    assert_replays(task, [example(task, support=support)], world(QUERIES, stops=(3,)))


@pytest.mark.parametrize("task_class", [MusiqueAnswerable, MusiqueFull])
def test_the_tasks_are_complete(task_class, world, record, write):
    pairs = [record(f"2hop__{n}_9", marker=m, answerable=not m) for n in (1, 2) for m in ("", "!")]
    pairs = pairs if task_class is MusiqueFull else pairs[::2]
    check_task(task_class(), data=write(pairs), splits=["dev"], engine=world(QUERIES), plays=4)


def test_searches_until_the_last_retrieval_and_does_not_ask_to_stop_after_it(world, example):
    task = MusiqueAnswerable()
    trace = deviate(task, world(QUERIES), example(task))
    assert trace.episode.failure is None
    assert nodes_of(trace.episode) == [*ALL_ROUNDS, "verbose", "concise"]


def test_stops_when_told_to(world, example):
    task = MusiqueAnswerable()
    trace = deviate(task, world(QUERIES, stops=(2,)), example(task))
    assert nodes_of(trace.episode) == [*ALL_ROUNDS[:5], "verbose", "concise"]
    assert trace.episode.result["predicted_support_idxs"] == [2, 3]


def test_full_judges_sufficiency_on_the_final_scratchpad(world, example):
    task = MusiqueFull()
    trace = deviate(task, world(QUERIES, stops=(2,)), example(task))
    last = trace.episode.steps[-1]
    assert nodes_of(trace.episode) == [*ALL_ROUNDS[:5], "verbose", "concise", "sufficiency"]
    assert [f"Title: T{n}\n" in last.prompt_text for n in range(7)] == [
        n in (2, 3) for n in range(7)
    ]


@pytest.mark.parametrize("most", [1, 2, 9])
def test_retrieves_no_more_than_is_set_or_is_there(most, world, example):
    task = MusiqueAnswerable(MusiqueSettings(max_retrievals=most))
    episode = deviate(task, world(), example(task, documents=3, support=(1,))).episode
    rounds = min(most, 3)
    assert nodes_of(episode).count("retrieve") == rounds
    assert nodes_of(episode).count("stop") == max(rounds - 2, 0)


@pytest.mark.parametrize("least", [1, 2, 3, 4, 9])
def test_asks_to_stop_from_the_least_number_of_retrievals_on(least, world, example):
    task = MusiqueAnswerable(MusiqueSettings(min_retrievals=least))
    episode = deviate(task, world(QUERIES, stops=(1, 2, 3)), example(task)).episode
    rounds = min(least, 4)
    asked = [*ROUND[:2]] * (rounds - 1) + (ROUND if least < 4 else ROUND[:2])
    assert nodes_of(episode) == [*asked, "verbose", "concise"]


@pytest.mark.parametrize("ranking", ["likelihood", "choice"])
def test_never_offers_a_used_document(ranking, world, example):
    task = MusiqueAnswerable(MusiqueSettings(ranking=ranking))
    episode = deviate(task, world(dict.fromkeys(range(4), ("T3",))), example(task)).episode
    offered = [step.response.options for step in episode.steps if step.node == "retrieve"]
    assert [len(options) for options in offered] == [7, 6, 5, 4]
    taken = [options[0].value.idx for options in offered]
    assert taken == [3, 0, 1, 2]
    for number, options in enumerate(offered):
        assert not {option.value.idx for option in options} & set(taken[:number])


def test_an_empty_scratchpad_is_shown_as_such_and_documents_by_title_and_content(world, example):
    task = MusiqueAnswerable()
    episode = deviate(task, world(QUERIES), example(task)).episode
    first, second, *_ = [step.prompt_text for step in episode.steps if step.node == "query"]
    assert first.endswith("Documents:\n(none yet)\n\nQuestion: Which colour is it?\nLook up:")
    assert "Documents:\nTitle: T3\nContent: Fact number 3.\n\nQuestion: Which" in second


def test_ranked_by_choice_a_document_and_the_question_are_read_once_for_all_queries(world, example):
    task = MusiqueAnswerable(MusiqueSettings(ranking="choice"))
    asked = world(QUERIES)
    deviate(task, asked, example(task))
    prompts = [
        prompt
        for request in asked.requests
        if request.adapter == "retrieve"
        for prompt, _ in request.items
    ]
    assert len({prompt.frozen_prefix for prompt in prompts}) == 7  # documents
    anew = {prompt.text.removeprefix(prompt.frozen_prefix) for prompt in prompts}
    assert anew == {f" T{n}\nHelps:" for n in range(1, 7)}


@pytest.mark.parametrize("task_class", [MusiqueAnswerable, MusiqueFull])
def test_what_an_answerable_example_is_judged_by_and_teaches(task_class, world, example):
    task = task_class()
    asked = world(QUERIES, stops=(3,), verbose=("dark red",))
    episode = deviate(task, asked, example(task, aliases=("crimson",))).episode
    # T3 supports, T2 does not, T5 does: f1 of {2, 3, 5} against {3, 5}, of "dark red" with "red".
    expected = {
        "hit": [1.0, 0.0, 1.0],
        "support_f1": [pytest.approx(0.8)],
        "answer_f1": [pytest.approx(2 / 3)],
        "answer_em": [0.0],
    }
    taught = [
        ("retrieve", 0, [3, 5]),
        ("retrieve", 1, [5]),
        ("stop", 0, False),
        ("retrieve", 2, [5]),
        ("stop", 1, True),
        ("concise", 0, "red"),
    ]
    if task_class is MusiqueFull:
        expected["sufficiency"] = [1.0]
        taught.append(("sufficiency", 0, True))
    assert stated(episode) == expected
    assert targets(episode) == taught


def test_hit_is_undefined_and_retrieve_has_no_target_when_nothing_was_left_to_hit(world, example):
    task = MusiqueAnswerable()
    trace = deviate(task, world(QUERIES, stops=(2,)), example(task, support=(3,)))
    assert stated(trace.episode)["hit"] == [1.0, None]
    assert targets(trace.episode)[:2] == [("retrieve", 0, [3]), ("stop", 0, True)]
    second = [deviation for deviation in trace.deviations if deviation.node == "query"][1]
    assert second.outcome is Outcome.SKIPPED


@pytest.mark.parametrize(("sufficient", "right"), [(-0.5, 0.0), (-2.0, 1.0)])
def test_an_unanswerable_example_teaches_sufficiency_alone(sufficient, right, world, example):
    task = MusiqueFull()
    asked = world(QUERIES, verbose=("red", "blue"), sufficient=sufficient)
    trace = deviate(task, asked, example(task, answerable=False))
    assert stated(trace.episode) == {
        "hit": [None] * 4,
        "support_f1": [None],
        "answer_f1": [None],
        "answer_em": [None],
        "sufficiency": [right],
    }
    assert targets(trace.episode) == [("sufficiency", 0, False)]
    assert trace.preferences == []
    assert trace.deviations == []


@pytest.mark.parametrize("task_class", [MusiqueAnswerable, MusiqueFull])
def test_an_example_without_labels_teaches_nothing(task_class, world, example):
    task = task_class()
    trace = deviate(task, world(QUERIES), example(task, labels=False))
    assert trace.example.gold is None
    assert {reward.value for reward in trace.episode.rewards} == {None}
    assert trace.episode.targets == []
    assert trace.preferences == []
    assert trace.episode.result["predicted_support_idxs"] == [2, 3, 5, 6]


def test_immediate_credit_prefers_the_query_that_hits_and_rolls_out_no_further(world, example):
    task = MusiqueAnswerable()
    # Greedy against alternative: hit/miss, miss/hit, hit/miss; then nothing is left to hit.
    trace = deviate(task, world(QUERIES), example(task))
    rollouts = [deviation for deviation in trace.deviations if deviation.node == "query"]
    assert [deviation.outcome for deviation in rollouts] == [
        Outcome.GREEDY_BETTER,
        Outcome.ALTERNATIVE_BETTER,
        Outcome.GREEDY_BETTER,
        Outcome.SKIPPED,
    ]
    for deviation in rollouts[:3]:
        assert deviation.rollout.stopped_early
        assert nodes_of(deviation.rollout)[deviation.step :] == ["query", "retrieve"]
    preferred = [preference for preference in trace.preferences if preference.node == "query"]
    assert [(p.chosen.text, p.rejected.text, p.margin) for p in preferred] == [
        ("T3", "T1", 1.0),
        ("T5", "T2", 1.0),
        ("T5", "T4", 1.0),
    ]


def test_immediate_credit_deviates_in_all_that_learns_from_preferences(world, example):
    task = MusiqueFull()
    trace = deviate(task, world(QUERIES, verbose=("red", "blue")), example(task))
    assert {deviation.node for deviation in trace.deviations} == {"query", "stop", "verbose"}


def test_stop_learns_which_documents_are_not_worth_their_precision(world, example):
    task = MusiqueAnswerable(MusiqueSettings(min_retrievals=1))
    # After T3, which supports, come T2, T5 and T6, of which only T5 does.
    trace = deviate(task, world(QUERIES), example(task))
    stops = [deviation for deviation in trace.deviations if deviation.node == "stop"]
    assert [d.greedy_reward for d in stops] == [pytest.approx(2 / 3)] * 3
    assert [d.alternative_reward for d in stops] == pytest.approx([2 / 3, 1 / 2, 4 / 5])
    assert [d.rollout.stopped_early for d in stops] == [True] * 3
    pairs = [(p.chosen.text, p.rejected.text) for p in trace.preferences if p.node == "stop"]
    assert pairs == [("No", "Yes"), ("Yes", "No")]


def test_two_queries_that_both_hit_make_no_preference(world, example):
    task = MusiqueAnswerable()
    trace = deviate(task, world({0: ("T3", "T5")}, stops=(1,)), example(task))
    queries = [deviation for deviation in trace.deviations if deviation.node == "query"]
    assert [deviation.outcome for deviation in queries] == [Outcome.TIE]


def test_deviation_credit_learns_the_search_from_support_f1_alone(world, example):
    task = MusiqueFull(MusiqueSettings(credit="deviation", min_retrievals=1))
    trace = deviate(task, world(QUERIES, stops=(2,)), example(task))
    assert [deviation.node for deviation in trace.deviations] == ["query", "retrieve", "stop"] * 2
    for deviation in trace.deviations:
        assert deviation.greedy_reward == 0.5
        assert deviation.rollout.stopped_early
        assert not {"verbose", "concise", "sufficiency"} & set(nodes_of(deviation.rollout))
    # Going on after T2 and T3, which supports, finds T5 (which does, too) and then T6.
    assert nodes_of(trace.deviations[-1].rollout) == [*ROUND * 3, *ROUND[:2]]
    assert trace.deviations[-1].alternative_reward == pytest.approx(2 / 3)
    # T1 or T0 in the place of T3 finds none that supports; T3 alone is better than with T2.
    assert [deviation.gain for deviation in trace.deviations] == pytest.approx(
        [-0.5, -0.5, 1 / 6, 0.5, 0.0, 1 / 6]
    )


def test_verbose_learns_from_its_best_alternative_after_the_concise_answer(world, example):
    task = MusiqueFull()
    asked = world(
        stops=(1,),
        verbose=("It may be blue.", "Of some red.", "Red it is.", "No.", "never asked for"),
        concise={"It may be blue.": "blue", "Of some red.": "some red", "Red it is.": "red"},
    )
    trace = deviate(task, asked, example(task))
    verbose = [deviation for deviation in trace.deviations if deviation.node == "verbose"]
    assert [deviation.gain for deviation in verbose] == pytest.approx([2 / 3, 1.0, 0.0])
    assert all(nodes_of(d.rollout)[d.step :] == ["verbose", "concise"] for d in verbose)
    (preference,) = [p for p in trace.preferences if p.node == "verbose"]
    assert (preference.chosen.text, preference.rejected.text) == ("Red it is.", "It may be blue.")
    assert preference.margin == 1.0
    asked_for = {r.decoding.groups for r in asked.requests if r.adapter == "verbose"}
    assert asked_for == {4}


def test_the_nodes_are_those_of_the_paper_but_for_how_stop_learns():
    nodes = MusiqueFull().nodes_by_name
    assert list(nodes) == ["query", "retrieve", "stop", "verbose", "concise", "sufficiency"]
    assert {name: nodes[name].max_new_tokens for name in ("query", "verbose", "concise")} == {
        "query": 50,
        "verbose": 100,
        "concise": 25,
    }
    learned = {name: node.learn for name, node in nodes.items()}
    assert learned == {
        "query": "preferences",
        "retrieve": "supervised",
        "stop": "preferences",
        "verbose": "preferences",
        "concise": "supervised",
        "sufficiency": "supervised",
    }
    assert list(MusiqueAnswerable().nodes_by_name) == list(nodes)[:-1]


@pytest.mark.parametrize(("ranking", "data"), [("likelihood", 1), ("choice", 2)])
def test_retrieve_learns_the_best_supporting_document_and_the_best_other(
    ranking, data, world, example
):
    task = MusiqueAnswerable(MusiqueSettings(ranking=ranking))
    trace = deviate(task, world({0: ("T1 T5 T3",)}, stops=(1,)), example(task))
    step = trace.episode.steps[1]
    target = trace.episode.targets[0]
    learned = task.node("retrieve").target_data(step.response, target.gold)
    assert len(learned) == data
    # Of the others, what they were when played stays.
    again = [[score for score in datum.options if score.terms] for datum in learned]
    shown = [[score.terms[0].prompt.text for score in scores] for scores in again]
    if ranking == "likelihood":
        assert [text[:9] for text in shown[0]] == ["Title: T5", "Title: T1"]
        assert learned[0].right == 0
    else:
        assert ["Title: T5" in shown[0][0], "Title: T1" in shown[1][0]] == [True, True]
        assert [datum.options[datum.right].terms[0].completion for datum in learned] == [
            " Yes",
            " No",
        ]


def test_a_document_has_one_prompt_for_every_query_when_ranked_by_likelihood(world, example):
    task = MusiqueAnswerable()
    asked = world(QUERIES)
    deviate(task, asked, example(task))
    items = [item for r in asked.requests if r.adapter == "retrieve" for item in r.items]
    documents = [item for item in items if item[0].text.startswith("Title: T")]
    assert len({prompt.messages for prompt, _ in documents}) == 7
    assert {texts for _, texts in documents} == {
        ("\nQuestion: Which colour is it?", f"\nLook up: {query}")
        for queries in QUERIES.values()
        for query in queries[:2]
        if query != "T0"
    }


def test_titles_rank_by_how_likely_they_are_looked_up_next(world, example):
    task = MusiqueAnswerable()
    asked = world(QUERIES)
    deviate(task, asked, example(task))
    retrievals = [r for r in asked.requests if r.adapter == "retrieve"]
    for request in retrievals:
        next_one, anyway = (
            [texts for prompt, texts in request.items if prompt.text.endswith(end)]
            for end in ("\nLook up:", "Title:")
        )
        assert len(next_one) == 1
        assert next_one == anyway
        assert all(text.startswith(" T") and text.endswith("\n") for text in next_one[0])
    queries = {r.prompt.text for r in asked.requests if r.adapter == "query"}
    asked_for = {p.text for r in retrievals for p, _ in r.items if p.text.endswith("Look up:")}
    # What the query node is shown, so that its context is read once for both.
    assert asked_for == queries


def test_documents_are_read_by_the_base_model_for_all_nodes(world, example):
    task = MusiqueFull(MusiqueSettings(min_retrievals=1))
    asked = world(QUERIES)
    deviate(task, asked, example(task))
    contexts: dict[str, list[str]] = {}
    for request in asked.requests:
        prompts = [prompt for prompt, _ in getattr(request, "items", ())] or [request.prompt]
        for prompt in prompts:
            assert "Fact number" not in prompt.text.removeprefix(prompt.frozen_prefix)
            contexts.setdefault(request.adapter, []).append(prompt.frozen_prefix)
    # The same documents in the same words, so they are read once for both.
    assert contexts["sufficiency"][0].startswith(contexts["stop"][0])
    assert contexts["stop"][0] in contexts["retrieve"]
    assert contexts["verbose"][0].startswith(contexts["query"][1])
    assert set(contexts["concise"]) == set(contexts["verbose"])


@pytest.mark.parametrize("task_class", [MusiqueAnswerable, MusiqueFull])
def test_a_prediction_has_the_official_fields_alone(task_class, world, example):
    task = task_class()
    asked = world(QUERIES, stops=(2,), verbose=("dark red",), sufficient=-2.0)
    trace = deviate(task, asked, example(task))
    result = json.loads(json.dumps(trace.episode.result))
    assert task.prediction(trace.example, result) == {
        "id": "2hop__11_22",
        "predicted_answer": "dark red",
        "predicted_support_idxs": [2, 3],
        "predicted_answerable": task_class is MusiqueAnswerable,
    }
    assert result["verbose_answer"] == "dark red"


def test_the_result_of_full_has_the_log_probability_of_sufficient(world, example):
    task = MusiqueFull()
    trace = deviate(task, world(sufficient=-1.0), example(task))  # as likely as No
    assert trace.episode.result["suff_raw_score"] == pytest.approx(-0.6931, abs=1e-4)


@pytest.mark.parametrize("judging", ["likelihood", "choice"])
@pytest.mark.parametrize("sufficient", [-0.1, -3.0])
def test_sufficiency_is_judged_either_way(judging, sufficient, world, example):
    task = MusiqueFull(MusiqueSettings(judging=judging))
    trace = deviate(task, world(sufficient=sufficient), example(task))
    assert trace.episode.result["predicted_answerable"] is (sufficient > -1.0)
    shown = trace.episode.last.response.prompt
    ends = {"likelihood": "\n\nQuestion: Which colour is it?", "choice": "Yes or No only."}
    assert shown.endswith(ends[judging])


def test_other_labels_of_a_judge_mean_the_same(world, example):
    task = MusiqueFull(MusiqueSettings(judging="choice"))
    task.node("sufficiency").labels = ("Enough", "Yes")  # "Yes" is the second label here
    trace = deviate(task, world(sufficient=-0.1), example(task))
    assert trace.episode.result["predicted_answerable"] is False
    assert stated(trace.episode)["sufficiency"] == [0.0]


def test_evaluates_predictions(world, example):
    task = MusiqueAnswerable()
    trace = deviate(
        task, world({0: ("T3",), 1: ("T5",)}, stops=(2,), verbose=("red",)), example(task)
    )
    line = task.prediction(trace.example, trace.episode.result)
    found = task.evaluate([trace.example], [line])
    assert (found["answer_f1"], found["answer_em"], found["support_f1"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("task_class", [MusiqueAnswerable, MusiqueFull])
def test_scores_have_the_digest_of_the_paragraphs(task_class, world, example):
    task = task_class()
    trace = deviate(task, world(QUERIES, sufficient=-1.0), example(task, documents=6))
    texts = "\n\n".join(f"Fact number {number}." for number in range(6))
    digest = hashlib.sha256(texts.encode()).hexdigest()
    scores = dict(task.scores(trace.example, trace.episode.result))
    assert scores.pop("pardigest") == digest
    expected = {"suff_raw_score": -math.log(2)} if task_class is MusiqueFull else {}
    assert scores == pytest.approx(expected)
    assert task.prediction_id(trace.example) == "2hop__11_22"


def test_where_all_documents_support_there_is_nothing_for_retrieve_to_tell_apart(world, example):
    task = MusiqueAnswerable(MusiqueSettings(min_retrievals=1))
    trace = deviate(task, world(), example(task, documents=2, support=(0, 1)))
    assert stated(trace.episode)["hit"] == [1.0, 1.0]
    assert [node for node, *_ in targets(trace.episode)] == ["stop", "concise"]


def test_examples_of_a_folder_are_those_of_the_official_file(write, record, tmp_path):
    write([record("4hop__1")], "musique_ans_v1.0_train.jsonl")
    write([record("4hop__2")], "musique_ans_v1.0_dev.jsonl")
    write([record("4hop__3"), record("4hop__3", marker="!")], "musique_full_v1.0_train.jsonl")
    answerable, full = MusiqueAnswerable(), MusiqueFull()
    assert [e.id for e in answerable.examples(tmp_path, "train")] == ["4hop__1"]
    assert [e.id for e in answerable.examples(tmp_path, "dev")] == ["4hop__2"]
    assert [e.record_id for e in full.examples(tmp_path, "train")] == ["4hop__3", "4hop__3"]


def test_only_training_examples_are_thinned_and_only_if_set(write, record, tmp_path):
    records = [record(f"2hop__{number}") for number in range(200)]
    for split in ("train", "dev"):
        write(records, f"musique_ans_v1.0_{split}.jsonl")
    thinned, whole = MusiqueAnswerable(), MusiqueAnswerable(MusiqueSettings(match_hops=False))

    def trained_on(task, split):
        return len(list(task.training_examples(task.examples(tmp_path, split), split)))

    assert 30 <= trained_on(thinned, "train") <= 70
    assert trained_on(thinned, "dev") == trained_on(whole, "train") == 200
    assert len(list(thinned.examples(tmp_path, "train"))) == 200


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no split 'val'; its splits: train, dev, test"):
        MusiqueAnswerable().examples(tmp_path, "val")
