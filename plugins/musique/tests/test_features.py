"""The features of documents for retrieve: the words that link them to each other."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_musique.features import RETRIEVE_FEATURES, Search, names, words
from flowtune_musique.prompts import scratchpad
from flowtune_musique.records import Document

QUESTION = "In which country was the painter of The Blue Mill born?"
MILL = Document(0, "The Blue Mill", "The Blue Mill was painted by Orrin Vale in 1901.")
VALE = Document(1, "Orrin Vale", "Vale came from the harbour town of Lysk.")
LYSK = Document(2, "Lysk", "Lysk is a town in Tarvia.")
BRIDGE = Document(3, "Hale Bridge", "It was designed by Ida Brandt. A country mill is near.")
ALL = (MILL, VALE, LYSK, BRIDGE)


def measured(candidate: Document, *found: Document, query: str = "Orrin Vale") -> dict[str, float]:
    inputs = {
        "question": QUESTION,
        "query": query,
        "found": scratchpad(found),
        "candidates": [each for each in ALL if each not in found],
        "candidate": candidate,
    }
    return {feature.name: feature.function(inputs) for feature in RETRIEVE_FEATURES}


def test_words_and_names() -> None:
    assert words("The Blue mill, and its OWNER") == {"blue", "mill", "owner"}
    assert names("The Blue mill of 1901, and its OWNER") == {"blue", "1901", "owner"}
    assert words("") == names("the of") == frozenset()


def test_a_word_is_rare_that_few_documents_have() -> None:
    search = Search(QUESTION, [], ALL)
    assert search.rarity("nowhere") == 1.0
    # "mill" stands in two of four documents, "lysk" in two, "orrin" in two, "tarvia" in one.
    assert search.rarity("mill") == pytest.approx(1 - math.log(5) / math.log(10))
    assert search.rarity("tarvia") == pytest.approx(1 - math.log(3) / math.log(10))
    assert Search("x", [], [BRIDGE, BRIDGE]).rarity("ida") == pytest.approx(
        1 - math.log(5) / math.log(6)
    )


def test_the_first_document_is_named_in_the_question() -> None:
    first = measured(MILL)
    assert first["title in question"] == 1.0
    assert first["title in found"] == first["name from found"] == 0.0
    assert measured(VALE)["title in question"] == measured(LYSK)["title in question"] == 0.0
    search = Search(QUESTION, [], ALL)
    rare = {word: search.rarity(word) for word in ("country", "painter", "blue", "mill", "born")}
    has = rare["blue"] + rare["mill"]
    assert first["question's rest"] == pytest.approx(has / sum(rare.values()))


def test_the_next_one_is_named_in_the_first() -> None:
    following = measured(VALE, MILL)
    assert following["title in found"] == 1.0
    search = Search(QUESTION, [MILL], ALL[1:])
    assert following["name from found"] == pytest.approx(search.rarity("orrin"))
    assert following["query"] == 1.0
    assert measured(LYSK, MILL)["name from found"] == measured(LYSK, MILL)["query"] == 0.0
    assert measured(LYSK, MILL, VALE)["title in found"] == 1.0


def test_what_the_question_has_leads_nowhere() -> None:
    """A document that shares no more than the question's own names is not linked by them."""
    other = Document(3, "Blue", "The Blue Mill is one of many.")
    search = Search(QUESTION, [MILL], [other])
    assert search.links(other) == search.titled(other) == 0.0


def test_what_was_found_is_no_longer_missing() -> None:
    assert measured(BRIDGE)["question's rest"] > 0
    search = Search(QUESTION, [MILL], ALL[1:])
    # "mill" was found; of "country", "painter" and "born" the bridge has the first.
    left = {word: search.rarity(word) for word in ("country", "painter", "born")}
    share = left["country"] / sum(left.values())
    assert measured(BRIDGE, MILL)["question's rest"] == pytest.approx(share)


texts = st.text(st.sampled_from("ab AB1 "), max_size=12)
documents = st.builds(Document, st.integers(0, 9), texts, texts)


@given(texts, texts, st.lists(documents, max_size=3), st.lists(documents, min_size=1, max_size=4))
def test_features_are_between_zero_and_one(question, query, found, candidates) -> None:
    for candidate in candidates:
        inputs = {
            "question": question,
            "query": query,
            "found": scratchpad(found),
            "candidates": candidates,
            "candidate": candidate,
        }
        for feature in RETRIEVE_FEATURES:
            assert 0.0 <= feature.function(inputs) <= 1.0 + 1e-9
