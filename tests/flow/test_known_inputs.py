"""Inputs that are held against those which a run's examples had."""

from __future__ import annotations

from typing import Any

import pytest

from flowtune_cli.flow.errors import DataError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.known_inputs import KnownInputs, kinds_of

KNOWN = {"documents": ["a list", "null"], "question": ["a text"]}
RIGHT = {"documents": ["a"], "question": "b"}


def checked(*names: str, known: Any = KNOWN, **inputs: Any) -> list[str]:
    told: list[str] = []
    checks = KnownInputs(known, told.append)
    for _ in range(2):
        checks.check(Example("input", {**{name: RIGHT.get(name) for name in names}, **inputs}))
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


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"documents": "one text"}, "'documents' is a text, and .* it was a list or null"),
        ({"documents": {"a": 1}}, "'documents' is an object"),
        ({"question": ["a"]}, "'question' is a list, and .* it was a text"),
        ({"question": None}, "'question' is null"),
        ({"question": b"a"}, "'question' is bytes"),
    ],
)
def test_a_value_of_another_kind(inputs: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        checked(**inputs)


def test_kinds_that_look_the_same_are_told() -> None:
    assert checked(documents=(), question=5) == [
        "the input 'question' is a number, and in the run's examples it was a text"
    ]


def test_the_kinds_of_examples() -> None:
    examples = [
        Example("1", {"b": "x", "a": [1], "c": None}),
        Example("2", {"b": 1.5, "a": (), "c": {"d": True}}),
        Example("3", {"b": False, "e": b""}),
    ]
    assert kinds_of(examples) == {
        "a": ["a list"],
        "b": ["a number", "a text", "true or false"],
        "c": ["an object", "null"],
        "e": ["bytes"],
    }


def test_what_is_fine() -> None:
    assert checked("question") == []
    assert checked("documents", "question") == []
    assert checked("anything", known=None) == []
