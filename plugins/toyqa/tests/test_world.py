"""Every question has exactly one answer, and only the chain of its documents leads there."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_toyqa.names import ENDS, SPLITS, vocabulary
from flowtune_toyqa.world import RELATIONS, HopQuestion, hop_question

INVENTED = {word for part in ENDS for split in SPLITS for word in vocabulary(part, split)}


@st.composite
def questions(draw, min_distractors: int = 0) -> HopQuestion:
    hops = draw(st.integers(2, 12))
    distractors = draw(st.integers(min_distractors, 30))
    rng = random.Random(draw(st.integers()))
    return hop_question(rng, draw(st.sampled_from(SPLITS)), hops, hops + distractors)


def invented(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text) if word in INVENTED}


def solve(hops: HopQuestion, facts) -> set[str]:
    """All things that the path leads to from the start, by these facts."""
    reached = {hops.start}
    for relation in hops.path:
        reached = {f.object for f in facts if f.relation == relation and f.subject in reached}
    return reached


@given(questions())
def test_the_chain_leads_to_the_answer_and_nothing_else_does(hops):
    assert solve(hops, hops.facts) == {hops.answer}
    chain = [hops.facts[index] for index in hops.support]
    assert solve(hops, chain) == {hops.answer}
    for needed in chain:
        assert not solve(hops, [fact for fact in hops.facts if fact != needed])


@given(questions())
def test_the_answer_stands_in_the_last_fact_of_the_chain_alone(hops):
    told = [i for i, fact in enumerate(hops.facts) if invented(hops.answer) & invented(fact.text)]
    assert told == [hops.support[-1]]


@given(questions())
def test_the_question_names_the_start_and_nothing_else(hops):
    assert hops.start in hops.text
    assert invented(hops.text) == invented(hops.start)
    assert re.fullmatch(r"[A-Z][A-Za-z ]+\?", hops.text)


@given(questions())
def test_the_question_nests_the_path(hops):
    *inner, last = hops.path
    description = hops.start
    for relation in inner:
        description = relation.phrase.replace("{x}", description)
    assert hops.text == last.question.replace("{x}", description)


@given(questions())
def test_facts_are_different_sentences_that_do_not_contradict_each_other(hops):
    texts = [fact.text for fact in hops.facts]
    assert len(set(texts)) == len(texts)
    assert max(Counter((f.subject, f.relation) for f in hops.facts).values()) == 1
    for fact in hops.facts:
        assert fact.subject in fact.text
        assert fact.object in fact.text
        assert invented(fact.text) == invented(fact.subject) | invented(fact.object)


@given(questions(min_distractors=2))
def test_some_distractors_look_like_support(hops):
    chain = [hops.facts[index] for index in hops.support]
    distractors = [fact for i, fact in enumerate(hops.facts) if i not in hops.support]
    on_the_way = {name for fact in chain for name in (fact.subject, fact.object)}
    assert any(fact.relation == hops.path[-1] for fact in distractors)
    assert any({fact.subject, fact.object} & on_the_way for fact in distractors)


@given(questions())
def test_one_support_a_hop_among_the_documents(hops):
    assert len(hops.path) == len(hops.support) == len(set(hops.support))


def test_every_relation_is_asked_about():
    made = [hop_question(random.Random(seed), "train", 2, 6) for seed in range(300)]
    reachable = {relation.object for relation in RELATIONS}
    assert {hops.path[-1] for hops in made} == {r for r in RELATIONS if r.subject in reachable}
    assert {hops.path[0] for hops in made} == set(RELATIONS)


def test_support_stands_anywhere():
    made = [hop_question(random.Random(seed), "train", 2, 6) for seed in range(100)]
    assert {hops.support[0] for hops in made} == set(range(6))
    assert {hops.support[1] for hops in made} == set(range(6))


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda r: r.phrase)
def test_a_document_is_one_sentence(relation):
    text = relation.document.format(s="Tavo Merin", o="Quelda")
    assert re.fullmatch(r"[A-Z][A-Za-z ]+\.", text)
