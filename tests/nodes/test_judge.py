"""Judge: which label it chooses, how sure it is, and what it learns from."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.exploration import DiverseBeam
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.node import ChoiceDatum, Score, Term
from flowtune_cli.flow.prompt import Template
from flowtune_cli.flow.request import ScoreRequest
from flowtune_cli.nodes import Factor, Judge
from flowtune_cli.nodes.judge import _log_softmax
from support.fake_engine import FakeEngine

PROMPT = Template(user="{x}?", chat=False)


def scoring(scores: dict[str, float], **more: Any) -> FakeEngine:
    return FakeEngine(score=lambda prompt, completion: scores[completion], **more)


def judge(**more: Any) -> Judge:
    return Judge(**{"name": "j", "prompt": PROMPT, **more})


def by_likelihood(**more: Any) -> Judge:
    return judge(**{"score": "likelihood", "text": " So {x}", **more})


def rendered() -> Any:
    return PROMPT.render({"x": 1}, node="j")


# By choice


def test_the_likeliest_label_is_chosen(respond: Any) -> None:
    engine = scoring({" Yes": -3.0, " No": -1.0})
    response = respond(engine, judge(labels=(" Yes", " No")), x=1)
    (output,) = response.outputs
    assert (output.value, output.text) == ("No", "No")
    assert [option.value for option in response.options] == ["No", "Yes"]
    assert engine.requests == [ScoreRequest("j", ((rendered(), (" Yes", " No")),), rivals=True)]
    assert (response.prompt, response.adapter_version) == ("<1?>", 7)
    assert (response.prompt_tokens, response.dropped_tokens) == (17, 2)


def test_logprobs_are_over_the_labels_alone(respond: Any) -> None:
    scores = {"a": -11.0, "b": -10.0, "c": -13.0}
    response = respond(scoring(scores), judge(labels=("a", "b", "c")), x=1)
    total = sum(math.exp(score) for score in scores.values())
    for option in response.options:
        expected = math.log(math.exp(scores[option.value]) / total)
        assert option.logprob == pytest.approx(expected)
        assert response.detail["logprobs"][option.value] == option.logprob
    assert sum(math.exp(o.logprob) for o in response.options) == pytest.approx(1.0)
    assert list(response.detail["logprobs"]) == ["a", "b", "c"]


def test_options_carry_their_own_scores(respond: Any) -> None:
    response = respond(scoring({"Yes": -3.0, "No": -1.0}), judge(), x=1)
    for option in response.options:
        assert option.score == Score((Term(rendered(), option.value, rivals=("Yes", "No")),))


def test_alternatives_are_the_other_labels_best_first(respond: Any) -> None:
    scores = {"a": -3.0, "b": -1.0, "c": -2.0}
    node = judge(labels=("a", "b", "c"), alternatives=2)
    response = respond(scoring(scores), node, DiverseBeam(), x=1)
    assert [output.value for output in response.outputs] == ["b", "c", "a"]
    node.alternatives = 1
    response = respond(scoring(scores), node, DiverseBeam(), x=1)
    assert [output.value for output in response.outputs] == ["b", "c"]
    assert [option.value for option in response.options] == ["b", "c", "a"]


def test_of_equal_labels_the_first_is_chosen(respond: Any) -> None:
    response = respond(scoring({"Yes": -1.0, "No": -1.0}), judge(), x=1)
    assert response.outputs[0].value == "Yes"
    assert response.outputs[0].logprob == pytest.approx(math.log(0.5))


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=6), st.floats(-1e4, 1e4))
def test_log_softmax(values: list[float], shift: float) -> None:
    logprobs = _log_softmax(values)
    assert math.fsum(math.exp(logprob) for logprob in logprobs) == pytest.approx(1.0)
    assert all(logprob <= 1e-9 for logprob in logprobs)
    shifted = _log_softmax([value + shift for value in values])
    assert shifted == pytest.approx(logprobs, abs=1e-6)


# By likelihood


def test_means_of_several_texts_add_up_by_weight(respond: Any) -> None:
    nothing = Template(user="none", chat=False)
    # Two tokens each: -1.5 a token after the documents, -4 a token after nothing.
    engine = FakeEngine(
        score=lambda prompt, _: -3.0 if "1" in prompt else -8.0,
        head={"likelihood": 2.0, "bias": 0.25},
    )
    node = by_likelihood(text=(" So {x}", Factor(" So {x}", prompt=nothing, weight=-0.5)))
    response = respond(engine, node, x=1)
    raw = 2.0 * (-1.5 - 0.5 * -4.0 + 2.0) + 0.25
    assert response.detail["logprobs"]["No"] == pytest.approx(-math.log1p(math.exp(raw)))
    terms = (
        Term(rendered(), " So 1", mean=True),
        Term(nothing.render({}, node="j"), " So 1", -0.5, mean=True),
    )
    (score,) = (option.score for option in response.options if option.value == "Yes")
    assert score == Score(terms, {"likelihood": 2.0, "bias": 1.0})
    assert response.prompt == "<1?> So 1\n\n<none> So 1"


@pytest.mark.parametrize(
    ("total", "scale", "bias", "value", "raw"),
    [
        (-3.0, 2.0, 0.0, "Yes", 1.0),  # two tokens: -1.5 a token, 0.5 above the threshold
        (-5.0, 2.0, 0.0, "No", -1.0),
        (-4.0, 2.0, 0.0, "Yes", 0.0),  # on the threshold the first label wins
        (-5.0, -1.0, 1.5, "Yes", 2.0),
        (-3.0, 2.0, -1.5, "No", -0.5),
    ],
)
def test_the_head_decides(
    respond: Any, total: float, scale: float, bias: float, value: str, raw: float
) -> None:
    engine = scoring({" So 1": total}, head={"likelihood": scale, "bias": bias})
    response = respond(engine, by_likelihood(), x=1)
    assert response.outputs[0].value == value
    assert response.detail["logprobs"]["Yes"] == pytest.approx(-math.log1p(math.exp(-raw)))
    assert response.detail["logprobs"]["No"] == pytest.approx(-math.log1p(math.exp(raw)))
    assert engine.requests == [ScoreRequest("j", ((rendered(), (" So 1",)),))]
    assert response.prompt == "<1?> So 1"


def test_by_likelihood_the_first_label_is_scored_against_nothing(respond: Any) -> None:
    engine = scoring({" So 1": -3.0})
    node = by_likelihood(alternatives=1)
    response = respond(engine, node, DiverseBeam(), x=1)
    judged = Score((Term(rendered(), " So 1", mean=True),), {"likelihood": 2.0, "bias": 1.0})
    assert [(o.value, o.score) for o in response.outputs] == [("Yes", judged), ("No", Score())]


def test_a_judge_without_an_adapter_uses_its_initial_head(respond: Any) -> None:
    engine = scoring({" So 1": -3.0})
    for threshold, value in [(-2.0, "Yes"), (-1.0, "No")]:
        node = by_likelihood(learn="nothing", threshold=threshold)
        assert respond(engine, node, x=1).outputs[0].value == value


def test_initial_head() -> None:
    assert by_likelihood(scale=3.0, threshold=-1.0).initial_head() == {
        "likelihood": 3.0,
        "bias": 0.0,
    }
    assert judge(scale=3.0, threshold=-1.0).initial_head() == {}


def test_shown_is_all_that_the_model_sees() -> None:
    assert judge().prompt_text({"x": 1}) == "1?"
    assert by_likelihood().prompt_text({"x": 1}) == "1? So 1"


# Learning from targets


@pytest.mark.parametrize(("gold", "right"), [("Yes", 1), ("No", 0), (True, 1), (False, 0)])
def test_targets(respond: Any, gold: Any, right: int) -> None:
    node = judge(weight=0.5)
    response = respond(scoring({"Yes": -3.0, "No": -1.0}), node, x=1)
    labels = ("Yes", "No")
    yes, no = (Score((Term(rendered(), label, rivals=labels),)) for label in labels)
    assert node.target_data(response, gold) == [ChoiceDatum("j", (no, yes), right, 0.5)]


def test_targets_by_likelihood(respond: Any) -> None:
    node = by_likelihood()
    response = respond(scoring({" So 1": -3.0}, head={"likelihood": 1.0, "bias": -2.0}), node, x=1)
    judged = Score((Term(rendered(), " So 1", mean=True),), {"likelihood": 2.0, "bias": 1.0})
    assert response.outputs[0].value == "No"
    assert node.target_data(response, True) == [ChoiceDatum("j", (Score(), judged), 1, 1.0)]


@pytest.mark.parametrize("gold", ["Maybe", "yes", None, 1, ["Yes"]])
def test_targets_must_be_labels(respond: Any, gold: Any) -> None:
    node = judge()
    response = respond(scoring({"Yes": -3.0, "No": -1.0}), node, x=1)
    with pytest.raises(UsageError, match="node 'j' cannot learn the label"):
        node.target_data(response, gold)


# Settings that cannot work


@pytest.mark.parametrize("labels", [(), ("Yes",), ("Yes", "Yes"), ("Yes", " Yes")])
def test_labels_must_differ(labels: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="node 'j' needs two or more different labels"):
        judge(labels=labels)


@pytest.mark.parametrize("more", [{"text": ""}, {"labels": ("a", "b", "c")}])
def test_likelihood_needs_a_text_and_two_labels(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="node 'j' judges by likelihood"):
        by_likelihood(**more)


def test_the_inputs_that_a_call_has_to_give() -> None:
    texts = ("{b.c}", Factor("{d}", prompt=Template("{e} {f}", system="{g}")))
    judge = Judge(name="a", prompt=Template("{a}"), score="likelihood", text=texts)
    assert judge.input_names == frozenset("abdefg")
    assert Judge(name="a", prompt=Template("{a} {a[0]}")).input_names == {"a"}
