"""Grounded answers: when an answer is kept, and which span takes its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli import normalize
from flowtune_musique.grounding import ground

DOCUMENTS = ["The Eiffel Tower stands in Paris, France.", "It was built by Gustave Eiffel in 1889."]


@pytest.mark.parametrize(
    ("candidates", "grounded"),
    [
        # The answer stands literally in a document, whatever the others say.
        (["Paris"], "Paris"),
        (["Eiffel Tower stands", "Paris", "Paris"], "Eiffel Tower stands"),
        (["The Eiffel Tower"], "The Eiffel Tower"),
        # It does not: its longest span that does.
        (["the Paris of old"], "Paris"),
        (["built in Gustave Eiffel in 1890"], "Gustave Eiffel in"),
        (["in paris"], "in"),
        # The most words after normalisation win, then the earlier span.
        (["the Eiffel / Tower stands"], "Tower stands"),
        (["Gustave or It was"], "It was"),
        (["The Eiffel or Eiffel Tower"], "Eiffel Tower"),
        (["Gustave or Paris"], "Gustave"),
        # Letters count as they are, so the candidates that agree most come next.
        (["PARIS", "Rome", "France", "France"], "France"),
        (["EIFFEL", "Gustave", "Paris"], "Gustave"),
        # The answer comes first on ties.
        (["a France trip", "Gustave", "Gustave", "France: trip"], "France"),
        # Candidates agree after normalisation, whatever their spelling.
        (["Rome 1", "Gustave", "Gustave", "1889!", "1889", "the 1889"], "1889"),
        # The first candidate with a span at all is taken, not the one with the longest.
        (["Roma", "in Rome", "Gustave Eiffel"], "in"),
        # Nothing stands anywhere: the answer stays.
        (["Rome"], "Rome"),
        (["Rome", "Berlin"], "Rome"),
        # What is empty after normalisation stands nowhere.
        (["", "Paris"], "Paris"),
        (["The", "Paris"], "Paris"),
        (["The . Rome", "Paris"], "Paris"),
        ([""], ""),
    ],
)
def test_the_span_that_takes_the_answer_s_place(candidates, grounded):
    assert ground(candidates, DOCUMENTS) == grounded


def test_without_documents_the_answer_stays():
    assert ground(["Rome", "Paris"], []) == "Rome"


def test_without_candidates_there_is_nothing_to_ground():
    with pytest.raises(ValueError, match="no answer to ground"):
        ground([], DOCUMENTS)


words = st.lists(st.sampled_from(["a", "b", "the", "B", "c.", "."]), max_size=5).map(" ".join)


@given(st.lists(words, min_size=1, max_size=4), st.lists(words, max_size=3))
def test_is_the_answer_or_words_of_a_document_and_grounding_again_changes_nothing(
    candidates, documents
):
    grounded = ground(candidates, documents)
    if grounded != candidates[0]:
        assert any(grounded in document for document in documents)
        assert normalize(grounded)
        assert any(grounded in " ".join(candidate.split()) for candidate in candidates)
    assert ground([grounded, *candidates[1:]], documents) == grounded or not normalize(grounded)
