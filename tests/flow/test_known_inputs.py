"""Inputs that are held against those which a run's examples had."""

from __future__ import annotations

from typing import Any

import pytest

from flowtune_cli.flow.errors import DataError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.known_inputs import KnownInputs


def checked(*names: str, known: Any = ("documents", "question")) -> list[str]:
    told: list[str] = []
    checks = KnownInputs(known, told.append)
    for _ in range(2):
        checks.check(Example("input", dict.fromkeys(names, 1)))
    return told


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["question", "documnts"], "no input 'documnts'. Did you mean 'documents'?"),
        (["Question"], "no input 'Question'. Did you mean 'question'?"),
        (["documents", "qestion"], "The run's examples had: documents, question"),
    ],
)
def test_a_misspelt_input(names: list[str], said: str) -> None:
    with pytest.raises(DataError) as caught:
        checked(*names)
    assert said in str(caught.value)


def test_what_no_example_had_is_told_once() -> None:
    [told] = checked("question", "tone")
    assert "the input 'tone' is unknown, and maybe ignored" in told
    # It looks like one that is there.
    assert len(checked("question", "questions")) == 1


def test_what_is_fine() -> None:
    assert checked("question") == []
    assert checked("documents", "question") == []
    assert checked("anything", known=None) == []
