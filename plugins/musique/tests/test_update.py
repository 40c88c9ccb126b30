"""What MuSiQue's nodes learn from is what docs/method.md says that the reference learns from.

Episodes are played on the tiny model, in float32. What is expected of them is worked out here from
the episodes themselves, node by node, by the rules of the paper's section 3.2 and of its reference
implementation, and by none of flowtune's own: not by rewards, targets, gains or preferences.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli import (
    LIKELIHOOD,
    ChoiceDatum,
    DecodeRequest,
    Deviation,
    Example,
    PreferenceDatum,
    Score,
    Step,
    TextDatum,
    Trace,
)
from flowtune_cli.testing import TinySession, make_tiny_model, prefer, training_data
from flowtune_musique.flow import MusiqueFull
from flowtune_musique.records import Document, Gold
from flowtune_musique.settings import MusiqueSettings

pytestmark = pytest.mark.slow

DOCUMENTS = tuple(Document(n, f"T{n}", f"{word} {n}") for n, word in enumerate("abcde"))


@dataclass(frozen=True)
class World:
    """The task on the tiny model."""

    session: TinySession

    def trace(self, example: Example) -> Trace:
        """All of one example. The engine remembers what it has answered, so this is quick."""
        [trace] = self.session.deviate([example])
        assert trace.episode.failure is None
        return trace

    def learned(self, trace: Trace) -> dict[str, list[Any]]:
        """The data of each node."""
        found: dict[str, list[Any]] = {**training_data(self.session.task, trace)}
        return found


def make(model: Path, **settings: Any) -> World:
    task = MusiqueFull(MusiqueSettings(max_retrievals=3, **settings))
    task.node("stop").learn = "supervised"  # as the reference does
    for node in ("query", "verbose", "concise"):
        task.node(node).max_new_tokens = 8  # the tiny model never stops by itself
    return World(TinySession(task, model, random_adapters=True))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its context is wide, since the prompts' invented examples nearly fill 1024 bytes."""
    return make_tiny_model(tmp_path_factory.mktemp("model"), context=2048)


@pytest.fixture(scope="module")
def choice(model: Path) -> World:
    """As the reference ranks and judges: by the log-odds of Yes."""
    return make(model, ranking="choice", judging="choice")


def example(seed: int, gold: Gold | None = None) -> Example:
    inputs = {"question": f"what {seed}?", "documents": DOCUMENTS, "record_id": f"2hop__{seed}"}
    return Example(f"2hop__{seed}", inputs, gold)


def bag(text: str) -> Counter[str]:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return Counter(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(answer: str, golds: tuple[str, ...]) -> float:
    best = 0.0
    for gold in golds:
        shared = sum((bag(answer) & bag(gold)).values())
        sizes = sum(bag(answer).values()) + sum(bag(gold).values())
        best = max(best, 2 * shared / sizes if sizes else 1.0)
    return best


def examples(world: World) -> Iterator[Example]:
    """Labels of every kind, with answers near to what the flow says, so that some F1 differ."""
    chance = random.Random(1)
    for seed in range(4, 8):
        once = world.trace(example(seed, Gold(("?",), frozenset(), True)))
        said = [
            step.output.value
            for episode in [once.episode, *played(once, "verbose")]
            for step in episode.steps
            if step.node == "concise" and bag(step.output.value)
        ]
        for number in range(12):
            answers = (chance.choice([*said, "nothing like it"]), chance.choice(["x y", *said]))
            supports = frozenset(chance.sample(range(len(DOCUMENTS)), chance.randint(0, 4)))
            yield example(seed, Gold(answers, supports, answerable=number % 4 != 3))


def played(trace: Trace, node: str) -> list[Any]:
    """The rollouts of a node's alternatives, whether or not anything was to be learned of them."""
    return [d.rollout for d in trace.deviations if d.node == node and d.rollout is not None]


def labels(datum: ChoiceDatum) -> tuple[str, list[str], str]:
    """The prompt, the labels to choose from, and the right one."""
    terms = [score.terms[0] for score in datum.options]
    assert {term.prompt for term in terms} == {terms[0].prompt}
    assert [len(score.terms) for score in datum.options] == [1] * len(terms)
    choices = [str(term.completion) for term in terms]
    return terms[0].prompt.text, sorted(choices), choices[datum.right]


def text_of(world: World, score: Score) -> str:
    """What an output of a Generate node says, decoded anew from its tokens."""
    (term,) = score.terms
    assert isinstance(term.completion, tuple)
    return world.session.decode(term.completion)


class Reference:
    """The updates of the reference, from the steps of an episode and of its rollouts."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.gold: Gold = trace.example.gold
        self.steps = trace.episode.steps

    def of(self, node: str) -> Iterator[Step]:
        return (step for step in self.steps if step.node == node)

    def supports(self, document: Document) -> bool:
        return document.idx in self.gold.support

    def used_before(self, step: Step) -> set[int]:
        return {s.output.value.idx for s in self.of("retrieve") if s.index < step.index}

    def unused(self, step: Step) -> list[Document]:
        return [d for d in DOCUMENTS if d.idx not in self.used_before(step)]

    def query(self) -> list[tuple[Step, int, bool, float]]:
        """(step, alternative, whether it is the better one, weight): exactly one of two hits."""
        updates = []
        for rollout in played(self.trace, "query"):
            deviated = next(step for step in rollout.steps if step.substituted)
            greedy = self.steps[deviated.index + 1].output.value
            other = rollout.steps[deviated.index + 1].output.value
            if self.supports(greedy) != self.supports(other):
                step = self.steps[deviated.index]
                number = step.response.outputs.index(deviated.output)
                updates.append((step, number, self.supports(other), 1.0))
        return updates

    def retrieve(self, scores: dict[tuple[int, int], float]) -> list[tuple[int, int, str]]:
        """(step, document, label): the best supporting one Yes, the best other one No."""
        updates = []
        for step in self.of("retrieve"):
            ranked = sorted(self.unused(step), key=lambda d: -scores[step.index, d.idx])
            right = [d for d in ranked if self.supports(d)]
            wrong = [d for d in ranked if not self.supports(d)]
            if right and wrong:
                updates += [(step.index, right[0].idx, " Yes"), (step.index, wrong[0].idx, " No")]
        return updates

    def stop(self) -> list[str]:
        return [
            "No" if any(map(self.supports, self.unused(step))) else "Yes"
            for step in self.of("stop")
        ]

    def verbose(self) -> list[tuple[float, set[str]]]:
        """(gain, texts) of the alternatives that ended best, where they gain or lose anything."""
        rollouts = played(self.trace, "verbose")
        said = [
            (f1(rollout.steps[-1].output.value, self.gold.answers), rollout) for rollout in rollouts
        ]
        greedy = f1(next(self.of("concise")).output.value, self.gold.answers)
        best = max((value for value, _ in said), default=greedy)
        if best == greedy:
            return []
        tied = {
            next(step for step in rollout.steps if step.substituted).output.text
            for value, rollout in said
            if value == best
        }
        return [(best - greedy, tied)]


def log_odds(world: World, trace: Trace) -> dict[tuple[int, int], float]:
    """By (step, document): of Yes over No, each by a forward pass of its own."""
    found = {}
    for step in trace.episode.steps:
        if step.node != "retrieve":
            continue
        for option in step.response.options:
            prompt = option.score.terms[0].prompt  # type: ignore[union-attr]
            yes, no = (
                world.session.log_likelihood("retrieve", prompt, label) for label in (" Yes", " No")
            )
            found[step.index, option.value.idx] = yes - no
            assert option.logprob == pytest.approx(yes - no, abs=1e-4)
    return found


@pytest.fixture(scope="module")
def traces(choice: World) -> list[Trace]:
    return [choice.trace(labelled) for labelled in examples(choice)]


def answerable(traces: list[Trace]) -> list[Trace]:
    return [trace for trace in traces if trace.example.gold.answerable]


def test_the_examples_are_of_every_kind(choice: World, traces: list[Trace]) -> None:
    """Else the tests below would compare nothing with nothing."""
    data = [choice.learned(trace) for trace in answerable(traces)]
    assert sum("query" in each for each in data) >= 3
    assert sum("query" not in each for each in data) >= 3
    better = [d.outcome.value for t in traces for d in t.deviations if d.node == "verbose"]
    assert {"alternative better", "greedy better", "tie"} <= set(better)
    right = {label for each in data for d in each.get("stop", []) for label in [labels(d)[2]]}
    assert right == {"Yes", "No"}


def test_unanswerable_examples_teach_sufficiency_alone(choice: World, traces: list[Trace]) -> None:
    found = [choice.learned(t) for t in traces if not t.example.gold.answerable]
    assert found
    assert all(list(data) == ["sufficiency"] for data in found)


def test_sufficiency_learns_the_label(choice: World, traces: list[Trace]) -> None:
    for trace in traces:
        (datum,) = choice.learned(trace)["sufficiency"]
        prompt, choices, right = labels(datum)
        assert prompt == trace.episode.steps[-1].prompt_text
        assert choices == ["No", "Yes"]
        assert right == ("Yes" if trace.example.gold.answerable else "No")
        assert datum.weight == 1.0


def test_query_learns_with_weight_1_when_exactly_one_of_two_hits(
    choice: World, traces: list[Trace]
) -> None:
    for trace in answerable(traces):
        data = choice.learned(trace).get("query", [])
        expected = Reference(trace).query()
        assert len(data) == len(expected)
        for datum, (step, alternative, better, weight) in zip(data, expected, strict=True):
            assert isinstance(datum, PreferenceDatum)
            outputs = step.response.outputs
            pair = (
                (outputs[alternative], outputs[0]) if better else (outputs[0], outputs[alternative])
            )
            assert (datum.chosen, datum.rejected) == (pair[0].score, pair[1].score)
            assert datum.chosen.terms[0].prompt.text == step.prompt_text
            assert pair[0].text in text_of(choice, datum.chosen)
            assert datum.weight == weight


def test_retrieve_learns_yes_for_the_best_supporting_document_and_no_for_the_best_other(
    choice: World, traces: list[Trace]
) -> None:
    scores: dict[str, dict[tuple[int, int], float]] = {}
    for trace in answerable(traces):
        name = trace.example.id  # what is played does not depend on the labels
        if name not in scores:
            scores[name] = log_odds(choice, trace)
        found = []
        for datum in choice.learned(trace).get("retrieve", []):
            prompt, choices, right = labels(datum)
            assert choices == [" No", " Yes"]
            assert datum.weight == 1.0
            (document,) = [d for d in DOCUMENTS if f"\n\n{d}\n\nQuestion: " in prompt]
            (step,) = [
                s.index
                for s in trace.episode.steps
                if s.node == "retrieve"
                and prompt in [o.score.terms[0].prompt.text for o in s.response.options if o.score]
            ]
            found.append((step, document.idx, right))
        assert found == Reference(trace).retrieve(scores[name])


def test_stop_learns_yes_when_no_supporting_document_is_left(
    choice: World, traces: list[Trace]
) -> None:
    for trace in answerable(traces):
        data = choice.learned(trace).get("stop", [])
        assert [labels(datum)[2] for datum in data] == Reference(trace).stop()
        assert [labels(d)[0] for d in data] == [s.prompt_text for s in Reference(trace).of("stop")]
        assert {datum.weight for datum in data} <= {1.0}


def test_verbose_learns_greedy_against_the_best_other_by_the_difference_of_answer_f1(
    choice: World, traces: list[Trace]
) -> None:
    """Of alternatives that tie, flowtune takes the first and the reference the last by alphabet."""
    for trace in answerable(traces):
        data = choice.learned(trace).get("verbose", [])
        expected = Reference(trace).verbose()
        assert len(data) == len(expected)
        (step,) = Reference(trace).of("verbose")
        greedy = step.response.outputs[0]
        for datum, (difference, tied) in zip(data, expected, strict=True):
            assert datum.weight == pytest.approx(abs(difference))
            kept, other = datum.rejected, datum.chosen
            if difference < 0:
                kept, other = datum.chosen, datum.rejected
            assert kept == greedy.score
            (found,) = [o.text for o in step.response.outputs if o.score == other]
            assert found in tied


def test_concise_learns_the_first_gold_answer(choice: World, traces: list[Trace]) -> None:
    for trace in answerable(traces):
        (datum,) = choice.learned(trace)["concise"]
        assert isinstance(datum, TextDatum)
        (step,) = Reference(trace).of("concise")
        assert datum.prompt.text == step.prompt_text
        assert datum.completion.strip() == trace.example.gold.answers[0].strip()
        assert datum.weight == 1.0


def test_what_is_known_to_differ_with_ranking_by_likelihood(model: Path) -> None:
    """A softmax of the best supporting document against the others, not two labels.

    Only the best of the others is computed again: the rest teach the head alone.
    """
    world = make(model, ranking="likelihood")
    trace = world.trace(example(0, Gold(("x",), frozenset({1, 3}), True)))
    first, *_ = world.learned(trace)["retrieve"]
    step = next(Reference(trace).of("retrieve"))
    ranked = step.response.options
    right = [o for o in ranked if o.value.idx in (1, 3)]
    wrong = [o for o in ranked if o.value.idx not in (1, 3)]
    assert list(first.options[:2]) == [right[0].score, wrong[0].score]
    assert first.right == 0
    rest = first.options[2:]
    head = world.session.task.node("retrieve").initial_head()
    for score, option in zip(rest, wrong[1:], strict=True):
        assert option.score is not None
        assert score.features.items() >= option.score.features.items()
        assert score.features.keys() - option.score.features.keys() == {LIKELIHOOD}
        assert score.value(0.0, head) == pytest.approx(option.logprob)
    assert not any(score.terms for score in rest)


def test_what_is_known_to_differ_in_the_answer(choice: World) -> None:
    """The reference searches the concise answer with 5 beams; here every node is greedy."""
    begin = len(choice.session.requests)
    choice.session.play([example(0)])
    requests = choice.session.requests[begin:]
    beams = {
        request.decoding.outputs
        for request in requests
        if isinstance(request, DecodeRequest) and request.adapter == "concise"
    }
    assert beams == {1}


def test_alternatives_that_tie_are_taken_in_their_order(choice: World, traces: list[Trace]) -> None:
    trace = next(t for t in answerable(traces) if len(played(t, "verbose")) > 1)
    tied = [
        replace(d, gain=0.5) if d.node == "verbose" else replace(d, gain=None)
        for d in trace.deviations
    ]
    (preference,) = prefer(choice.session.task, trace.episode, tied)
    first: Deviation = next(d for d in tied if d.gain)
    assert preference.alternative == first.alternative
