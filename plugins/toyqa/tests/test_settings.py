"""What can be set, and what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from flowtune_toyqa.settings import ToyQASettings


def test_the_defaults_are_two_hops_among_four_documents():
    settings = ToyQASettings()
    assert (settings.hops, settings.documents_shown, settings.retrievals) == (2, 4, 3)
    assert (settings.train_size, settings.test_size) == (400, 200)


def test_documents_and_retrievals_follow_the_hops():
    settings = ToyQASettings(hops=5)
    assert (settings.documents_shown, settings.retrievals) == (10, 6)


def test_they_can_be_set():
    settings = ToyQASettings(hops=3, documents=20, max_retrievals=7)
    assert (settings.documents_shown, settings.retrievals) == (20, 7)


def test_no_more_is_retrieved_than_there_is():
    assert ToyQASettings(hops=2, documents=2).retrievals == 2


def test_fewer_documents_than_hops_are_refused():
    with pytest.raises(ValidationError, match="documents must be at least hops"):
        ToyQASettings(hops=4, documents=3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hops": 1},
        {"hops": 13},
        {"documents": -1},
        {"documents": 101},
        {"max_retrievals": -1},
        {"train_size": 0},
        {"test_size": 0},
        {"seed": "x"},
        {"hop": 2},
    ],
    ids=str,
)
def test_what_is_out_of_range_or_unknown_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ToyQASettings(**wrong)
