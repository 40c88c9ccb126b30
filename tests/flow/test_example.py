"""Examples give their inputs as attributes."""

from __future__ import annotations

import copy
import pickle

import pytest

from flowtune_cli.flow.example import Example


def test_inputs_are_attributes() -> None:
    example = Example("1", {"question": "why", "documents": []}, gold="because")
    assert (example.question, example.documents, example.gold) == ("why", [], "because")


def test_unknown_inputs_name_those_there_are() -> None:
    with pytest.raises(AttributeError, match="no input 'x'; it has: question, y"):
        _ = Example("1", {"question": "why", "y": 1}).x
    with pytest.raises(AttributeError, match="it has: none"):
        _ = Example("1").x


def test_gold_is_not_an_input() -> None:
    assert Example("1", {"q": 1}).gold is None


def test_examples_can_be_copied() -> None:
    example = Example("1", {"q": [1]}, gold="g")
    assert copy.deepcopy(example) == example
    assert pickle.loads(pickle.dumps(example)) == example
