"""Inputs that a chat's message gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.errors import DataError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.served_inputs import inputs_of_text, only_user_text
from flowtune_cli.flow.task import Task


@pytest.mark.parametrize(
    ("text", "names", "inputs"),
    [
        ("hello", ["q"], {"q": "hello"}),
        ('{"q": [1, "a"]}', ["q"], {"q": [1, "a"]}),
        ('{"q": 1, "r": 2}', ["q"], {"q": 1, "r": 2}),
        ('{"r": 2}', ["q"], {"q": '{"r": 2}'}),
        ("[1]", ["q"], {"q": "[1]"}),
        ("{", ["q"], {"q": "{"}),
        ('{"q": 1, "r": 2}', ["q", "r"], {"q": 1, "r": 2}),
        ('{"q": 1}', [], {"q": 1}),
    ],
)
def test_inputs(text: str, names: list[str], inputs: Any) -> None:
    assert inputs_of_text(text, names, "node 'a'") == inputs


@pytest.mark.parametrize("text", ["hello", "[1]", "[" * 100_000, '"a"'])
def test_what_gives_none(text: str) -> None:
    with pytest.raises(DataError, match=r"node 'a' is asked by a JSON object .*, with q, r"):
        inputs_of_text(text, ["r", "q"], "node 'a'")


@pytest.mark.parametrize("text", ['{"Question": "a"}', '{"x": 1, "questoin": "a"}'])
def test_a_misspelt_name_is_no_text(text: str) -> None:
    with pytest.raises(DataError, match=r"has no input '.*'\. Did you mean 'question'\?"):
        inputs_of_text(text, ["question"], "node 'a'")


def test_the_only_message_is_a_users() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    user = {"role": "user", "content": parts}
    assert only_user_text([user], "node 'a'") == "ab"
    for messages in ([{"role": "assistant", "content": "a"}], [user, user]):
        with pytest.raises(DataError, match=r"node 'a' .*send one message, a user's"):
            only_user_text(messages, "node 'a'")


class OfInputs(Task):
    """A task whose first example has these inputs."""

    name = "of-inputs"
    nodes: Any = ()

    def __init__(self, inputs: Any) -> None:
        super().__init__()
        self.inputs = inputs

    def examples(self, source: Path | None, split: str) -> Any:
        if isinstance(self.inputs, Exception):
            raise self.inputs
        yield Example("1", self.inputs)

    async def run(self, episode: Any, example: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("inputs", "name"),
    [
        ({"q": "a"}, "q"),
        ({"id": "1", "q": "a"}, "q"),
        ({"q": "a", "r": "b"}, None),
        ({"q": 1}, None),
        ({}, None),
        (DataError("no data here"), None),
        (RuntimeError("no package here"), None),
    ],
)
def test_the_only_text_of_the_data_is_what_a_chat_says(inputs: Any, name: str | None) -> None:
    task = OfInputs(inputs)
    assert task.only_text_input == name
    chat = [{"role": "user", "content": "hello"}]
    if name is None:
        with pytest.raises(DataError, match="the flow 'of-inputs' is asked by a JSON object"):
            task.example_from_messages(chat)
    else:
        assert task.example_from_messages(chat).inputs == {name: "hello"}
    asked = [{"role": "user", "content": '{"x": 1, "y": 2}'}]
    if name is None:
        assert task.example_from_messages(asked).inputs == {"x": 1, "y": 2}


def test_results_as_texts() -> None:
    task = OfInputs({})
    assert task.text_of("é") == "é"
    assert task.text_of({"a": "é", "b": [1, None]}) == '{"a": "é", "b": [1, null]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        task.text_of({"a": float("inf")})


def test_a_task_may_name_the_input_that_a_text_is() -> None:
    class Named(OfInputs):
        text_input = "r"

    task = Named(DataError("no data here"))
    assert task.example_from_messages([{"role": "user", "content": "a"}]).inputs == {"r": "a"}
    asked = [{"role": "user", "content": '{"q": 1, "r": 2}'}]
    assert task.example_from_messages(asked).inputs == {"q": 1, "r": 2}
