"""Rank: which candidate it takes, its alternatives, and what it learns from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flowtune_cli.exploration import DiverseBeam
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import ChoiceDatum, Score, Term
from flowtune_cli.flow.prompt import Template
from flowtune_cli.flow.request import ScoreRequest
from flowtune_cli.nodes import Factor, Feature, Rank
from support.fake_engine import FakeEngine, FlowTask, run_play

CHOICE = Template(user="{candidate}? {query}", chat=False)
LABELS = ("Yes", "No")
PLAIN = Template(user="{candidate}.", chat=False)


def scoring(scores: dict[tuple[str, str], float]) -> FakeEngine:
    return FakeEngine(score=lambda prompt, completion: scores[prompt, completion])


def by_choice(**more: Any) -> Rank:
    return Rank(**{"name": "r", "prompt": CHOICE, **more})


def by_likelihood(**more: Any) -> Rank:
    settings = {"name": "r", "prompt": PLAIN, "score": "likelihood", "text": " {query}"}
    return Rank(**{**settings, **more})


def odds(**candidates: float) -> FakeEngine:
    """Yes scores as given, No scores -2."""
    scores = {}
    for candidate, log_odds in candidates.items():
        scores[f"{candidate}? q", "Yes"] = log_odds - 2.0
        scores[f"{candidate}? q", "No"] = -2.0
    return scoring(scores)


def likelihoods(**candidates: float) -> FakeEngine:
    return scoring({(f"{candidate}.", " q"): value for candidate, value in candidates.items()})


def labelled(candidate: str) -> tuple[Score, Score]:
    prompt = CHOICE.render({"candidate": candidate, "query": "q"}, node="r")
    yes, no = (Score((Term(prompt, label, rivals=LABELS),)) for label in LABELS)
    return yes, no


def after(candidate: str) -> Score:
    return Score((Term(PLAIN.render({"candidate": candidate}, node="r"), " q"),))


IS_B = Feature("is b", lambda inputs: float(inputs["candidate"] == "b"), 3.0)
QUERY = Feature("long query", lambda inputs: float(len(inputs["query"])))


@pytest.mark.parametrize("learn", ["supervised", "nothing"])
def test_features_are_added_by_their_weights(respond: Any, learn: Any) -> None:
    engine = likelihoods(a=-1.0, b=-2.0, c=-3.0)
    engine.every_head = {"is b": 1.5, "long query": 0.25}
    node = by_likelihood(features=(IS_B, QUERY), learn=learn)
    response = respond(engine, node, candidates=["a", "b", "c"], query="q")
    # What the weights have become counts, or what they start from where nothing is learned.
    b, long = (1.5, 0.25) if learn == "supervised" else (3.0, 0.0)
    assert [o.value for o in response.options] == ["b", "a", "c"]
    assert response.detail["scores"] == [-1.0 + long, -2.0 + b + long, -3.0 + long]
    assert response.detail["features"] == {"is b": b, "long query": long}
    prompt = PLAIN.render({"candidate": "b"}, node="r")
    assert response.outputs[0].score == Score(
        (Term(prompt, " q"),), {"is b": 1.0, "long query": 1.0}
    )
    assert node.initial_head() == {"is b": 3.0, "long query": 0.0}


def test_with_features_all_wrong_candidates_count(respond: Any) -> None:
    engine = likelihoods(a=-1.0, b=-2.0, c=-3.0, d=-4.0)
    engine.every_head = {"is b": 3.0}
    node = by_likelihood(features=(IS_B,), negatives=1)
    response = respond(engine, node, candidates=["a", "b", "c", "d"], query="q")
    assert [option.value for option in response.options] == ["b", "a", "c", "d"]
    (datum,) = node.target_data(response, ["c"])

    def played(candidate: str, is_b: float) -> Score:
        return Score(after(candidate).terms, {"is b": is_b})

    # The best wrong one is computed again; the others keep their likelihoods as played.
    others = tuple(Score(features={"likelihood": x, "is b": 0.0}) for x in (-1.0, -4.0))
    assert datum == ChoiceDatum("r", (played("c", 0.0), played("b", 1.0), *others), 0, 1.0)
    # Another right one is not learned against.
    (datum,) = node.target_data(response, ["c", "d"])
    assert datum == ChoiceDatum("r", (played("c", 0.0), played("b", 1.0), others[0]), 0, 1.0)


def test_features_count_for_the_first_label(respond: Any) -> None:
    engine = odds(a=-1.0, b=-2.0)
    engine.every_head = {"is b": 3.0}
    node = by_choice(features=(IS_B,))
    response = respond(engine, node, candidates=["a", "b"], query="q")
    assert [(o.value, o.logprob) for o in response.options] == [("b", 1.0), ("a", -1.0)]
    right, wrong = node.target_data(response, ["b"])
    assert isinstance(right, ChoiceDatum)
    assert isinstance(wrong, ChoiceDatum)
    assert [score.features for score in right.options] == [{"is b": 1.0}, {}]
    assert [score.features for score in wrong.options] == [{"is b": 0.0}, {}]


def test_log_odds_of_the_first_label_rank(respond: Any) -> None:
    engine = odds(a=-1.0, b=2.0, c=0.5)
    response = respond(engine, by_choice(), candidates=["a", "b", "c"], query="q")
    assert [output.value for output in response.outputs] == ["b"]
    assert [(o.value, o.text, o.logprob) for o in response.options] == [
        ("b", "b", 2.0),
        ("c", "c", 0.5),
        ("a", "a", -1.0),
    ]
    assert response.detail["scores"] == [-1.0, 2.0, 0.5]
    assert response.prompt == "<b? q>"
    assert (response.adapter_version, response.dropped_tokens) == (7, 2)
    (request,) = engine.requests
    assert isinstance(request, ScoreRequest)
    assert request.adapter == "r"
    assert [(p.text, c) for p, c in request.items] == [
        (f"{candidate}? q", ("Yes", "No")) for candidate in "abc"
    ]
    prompt = CHOICE.render({"candidate": "b", "query": "q"}, node="r")
    yes = Term(prompt, "Yes", rivals=LABELS)
    expected = Score((yes, Term(prompt, "No", coefficient=-1.0, rivals=LABELS)))
    assert response.outputs[0].score == expected


def test_likelihood_of_the_text_after_the_candidate_ranks(respond: Any) -> None:
    engine = likelihoods(a=-1.0, b=-2.0, c=-0.5)
    response = respond(engine, by_likelihood(), candidates=("a", "b", "c"), query="q")
    assert [option.value for option in response.options] == ["c", "a", "b"]
    assert [option.logprob for option in response.options] == [-0.5, -1.0, -2.0]
    assert response.outputs[0].score == after("c")
    assert response.prompt == "<c.> q"
    (request,) = engine.requests
    assert isinstance(request, ScoreRequest)
    assert [completions for _, completions in request.items] == [(" q",)] * 3


def test_likelihoods_of_several_texts_add_up(respond: Any) -> None:
    node = by_likelihood(text=(" {query}", " and {query}"))
    found = {("a.", " q"): -1.0, ("a.", " and q"): -2.0, ("b.", " q"): -2.5, ("b.", " and q"): 0.0}
    engine = scoring(found)
    response = respond(engine, node, candidates=("a", "b"), query="q")
    assert [option.value for option in response.options] == ["b", "a"]
    best = response.options[0]
    assert best.logprob == -2.5
    assert best.score is not None
    assert [term.completion for term in best.score.terms] == [" q", " and q"]
    assert node.prompt_text({"candidates": ("a", "b"), "query": "q"}) == "a.\nb. q and q"


def test_factors_have_weights_and_prompts_of_their_own(respond: Any) -> None:
    titled = Factor(
        " {candidate.name}", prompt=Template(user="Find {query}:", chat=False), weight=2
    )
    anyway = Factor(" {candidate.name}", prompt=Template(user="Find:", chat=False), weight=-1.0)
    node = by_likelihood(text=(" {query}", titled, anyway))
    a, b = SimpleNamespace(name="A"), SimpleNamespace(name="B")
    values = {
        (f"{a}.", " q"): -1.0,
        (f"{b}.", " q"): -2.0,
        ("Find q:", " A"): -3.0,
        ("Find q:", " B"): -1.0,
        ("Find:", " A"): -5.0,
        ("Find:", " B"): -0.5,
    }
    engine = scoring(values)
    response = respond(engine, node, candidates=(a, b), query="q")
    assert [(o.value, o.logprob) for o in response.options] == [(a, -2.0), (b, -3.5)]
    (request,) = engine.requests
    assert isinstance(request, ScoreRequest)
    # Each prompt once, with every text that stands after it.
    assert [(p.text, texts) for p, texts in request.items] == [
        (f"{a}.", (" q",)),
        ("Find q:", (" A", " B")),
        ("Find:", (" A", " B")),
        (f"{b}.", (" q",)),
    ]
    score = response.options[0].score
    assert score is not None
    assert [(t.prompt.text, t.completion, t.coefficient) for t in score.terms] == [
        (f"{a}.", " q", 1.0),
        ("Find q:", " A", 2.0),
        ("Find:", " A", -1.0),
    ]
    assert response.prompt == f"<{a}.> q\n\n<Find q:> A\n\n<Find:> A"
    shown = node.prompt_text({"candidates": (a, b), "query": "q"})
    assert all(text in shown for text in (f"{a}.", f"{b}.", "Find q:", " q", " A", " B"))


def test_ties_keep_the_order_of_the_candidates(respond: Any) -> None:
    engine = likelihoods(c=-1.0, a=-2.0, b=-1.0, d=-2.0)
    response = respond(engine, by_likelihood(), candidates=["d", "c", "a", "b"], query="q")
    assert [option.value for option in response.options] == ["c", "b", "d", "a"]


@pytest.mark.parametrize(("alternatives", "values"), [(0, "b"), (1, "bc"), (2, "bca"), (9, "bca")])
def test_alternatives_are_the_next_best(respond: Any, alternatives: int, values: str) -> None:
    node = by_choice(alternatives=alternatives)
    engine = odds(a=-1.0, b=2.0, c=0.5)
    response = respond(engine, node, DiverseBeam(), candidates=["a", "b", "c"], query="q")
    assert [output.value for output in response.outputs] == list(values)
    assert len(response.options) == 3


def test_candidates_may_be_anything(respond: Any) -> None:
    class Document:
        def __str__(self) -> str:
            return "a"

    document = Document()
    response = respond(odds(a=1.0), by_choice(), candidates=[document], query="q")
    assert response.outputs[0].value is document
    assert response.outputs[0].text == "a"


def test_shown_is_every_candidate_and_the_text() -> None:
    inputs = {"candidates": ["a", "b"], "query": "q"}
    assert by_choice().prompt_text(inputs) == "a? q\nb? q"
    assert by_likelihood().prompt_text(inputs) == "a.\nb. q"


@pytest.mark.parametrize("inputs", [{}, {"candidates": []}, {"candidates": None}])
def test_no_candidates_fail_the_episode(inputs: dict[str, Any]) -> None:
    async def flow(episode: Episode, example: Example) -> None:
        await episode.call("r", query="q", **inputs)

    episode = run_play(FakeEngine(), FlowTask([by_choice()], flow))
    assert episode.failure is not None
    assert "node 'r' was called without any candidates" in episode.failure.error


# Learning from targets


def ranked(respond: Any, node: Rank) -> Any:
    """The order is b, c, a, d."""
    values = {"a": -1.0, "b": 2.0, "c": 0.5, "d": -3.0}
    engine = odds(**values) if node.score == "choice" else likelihoods(**values)
    return respond(engine, node, candidates=["a", "b", "c", "d"], query="q")


@pytest.mark.parametrize(
    ("gold", "data"),
    [
        ({"a", "c"}, [("c", 0), ("b", 1)]),
        (["b"], [("b", 0), ("c", 1)]),
        (("d", "elsewhere"), [("d", 0), ("b", 1)]),
        (set(), [("b", 1)]),
        ({"elsewhere"}, [("b", 1)]),
        ({"a", "b", "c", "d"}, [("b", 0)]),
    ],
)
def test_choice_targets_are_best_right_and_best_wrong(
    respond: Any, gold: Any, data: list[tuple[str, int]]
) -> None:
    node = by_choice(weight=0.5)
    assert node.target_data(ranked(respond, node), gold) == [
        ChoiceDatum("r", labelled(candidate), right, 0.5) for candidate, right in data
    ]


@pytest.mark.parametrize(
    ("gold", "negatives", "options"),
    [
        ({"a"}, 3, "abcd"),
        ({"a"}, 1, "ab"),
        ({"a", "d"}, 3, "abc"),
        ({"b"}, 2, "bca"),
        (set(), 3, ""),
        ({"a", "b", "c", "d"}, 3, ""),
    ],
)
def test_likelihood_targets_are_the_best_right_against_the_best_wrong(
    respond: Any, gold: Any, negatives: int, options: str
) -> None:
    node = by_likelihood(negatives=negatives, weight=0.5)
    data = node.target_data(ranked(respond, node), gold)
    scores = tuple(after(candidate) for candidate in options)
    assert data == ([ChoiceDatum("r", scores, 0, 0.5)] if options else [])


def test_targets_need_not_be_hashable(respond: Any) -> None:
    node = Rank(name="r", prompt=Template(user="{candidate}", chat=False))
    candidates = [{"id": 1}, {"id": 2}]
    response = respond(FakeEngine(), node, candidates=candidates)
    data: Any = node.target_data(response, [{"id": 2}])
    assert sorted(datum.right for datum in data) == [0, 1]
    assert data[0].options[0].terms[0].prompt.text == "{'id': 2}"


@pytest.mark.parametrize("gold", ["abc", None, 3, True])
def test_targets_must_be_collections(respond: Any, gold: Any) -> None:
    node = by_choice()
    with pytest.raises(UsageError, match="node 'r' learns from a collection"):
        node.target_data(ranked(respond, node), gold)


# Settings that cannot work


def test_likelihood_needs_a_text() -> None:
    with pytest.raises(UsageError, match="node 'r' ranks by likelihood"):
        by_likelihood(text="")


@pytest.mark.parametrize("labels", [("Yes",), ("Yes", "Yes "), ("a", "b", "c")])
def test_two_different_labels(labels: Any) -> None:
    with pytest.raises(UsageError, match="node 'r' needs two different labels"):
        by_choice(labels=labels)


@pytest.mark.parametrize("names", [("likelihood",), ("twice", "twice")])
def test_features_need_names_of_their_own(names: tuple[str, ...]) -> None:
    features = tuple(Feature(name, lambda inputs: 0.0) for name in names)
    with pytest.raises(UsageError, match="node 'r': its features need different names"):
        by_likelihood(features=features)


@pytest.mark.parametrize(
    ("value", "said"),
    [(float("nan"), "is nan; it must be finite"), ("1", "is '1'; it must be a number")],
)
def test_a_feature_that_is_no_finite_number(value: Any, said: str) -> None:
    feature = Feature("odd", lambda inputs: value)
    with pytest.raises(ValueError, match="must be") as refused:
        feature.value({"candidate": "b"})
    assert str(refused.value) == f"feature 'odd' of 'b' {said}"
