"""What cannot be honoured is refused, and named; nothing is passed over."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtune_cli.gateway.errors import WireError
from flowtune_cli.gateway.requests import chat_request, completion_request
from flowtune_cli.gateway.responses_request import responses_request

USER = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}


def refused(parse: Any, body: Any) -> WireError:
    with pytest.raises(WireError) as caught:
        parse(body)
    assert caught.value.status == 400
    assert caught.value.param
    assert caught.value.param in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -1}, "presence_penalty"),
        ({"top_logprobs": 3, "logprobs": True}, "top_logprobs"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"store": True}, "store"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"best_of": 2}, "best_of"),
        ({"guided_json": {}}, "guided_json"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"seed": "x"}, "seed"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"user": 3}, "user"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": []}, "metadata"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": "yes"}}]},
            "tools[0].function.strict",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice.function.name",
        ),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": FORM, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar"),
        ({"model": 3}, "model"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
        ({"messages": [*USER, {"role": "user", "content": 3}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": "a", "x": 1}]}, "messages[0].x"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "tool", "content": "a", "tool_call_id": "2"}]},
            "messages[0].tool_call_id",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}]},
            "messages[0].tool_calls[0].type",
        ),
        (
            {"messages": [{"role": "assistant", "content": "a", "refusal": "no"}]},
            "messages[0].refusal",
        ),
    ],
)
def test_a_chat_request_is_refused(more: Any, param: str) -> None:
    assert refused(chat_request, {"model": "m", "messages": USER, **more}).param == param


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 2}, "logprobs"),
        ({"n": 2}, "n"),
        ({"messages": USER}, "messages"),
    ],
)
def test_a_text_request_is_refused(more: Any, param: str) -> None:
    assert refused(completion_request, {"model": "m", "prompt": "a", **more}).param == param


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "f", "strict": "yes"}]}, "tools[0].strict"),
        ({"text": {"format": {"type": "x"}}}, "text.format.type"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"input": 3}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type",
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]},
            "input[0].tool_call_id",
        ),
        ({"max_tokens": 3}, "max_tokens"),
    ],
)
def test_a_request_of_responses_is_refused(more: Any, param: str) -> None:
    assert refused(responses_request, {"model": "m", "input": "a", **more}).param == param


def test_null_is_the_same_as_nothing() -> None:
    names = ["tools", "n", "logit_bias", "stop", "temperature", "user", "unheard_of", "stream"]
    body = {"model": "m", "messages": USER, **dict.fromkeys(names)}
    assert chat_request(body).inputs == {"messages": USER}


def test_values_that_ask_for_nothing_are_accepted() -> None:
    harmless = {
        "n": 1,
        "logit_bias": {},
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "top_logprobs": 0,
        "modalities": ["text"],
        "parallel_tool_calls": True,
        "service_tier": "auto",
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "none",
        "stop": [],
    }
    asked = chat_request({"model": "m", "messages": USER, **harmless})
    assert asked.inputs == {"messages": USER}
    auto = chat_request({"model": "m", "messages": USER, "tools": [TOOL], "tool_choice": "auto"})
    assert "tool_choice" not in auto.inputs
    none = chat_request({"model": "m", "messages": USER, "tools": [TOOL], "tool_choice": "none"})
    assert none.inputs["tool_choice"] == "none"


texts = st.text(max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
WHOLE = {
    "model": "m",
    "messages": [*USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}],
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": FORM,
    "stream": True,
    "stream_options": {"include_usage": True},
    "stop": ["x"],
    "metadata": {"a": "b"},
    "temperature": 0.5,
}
RESPONSE = {
    "model": "m",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "x"},
    ],
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}},
    "tools": [{"type": "function", "name": "f", "parameters": {}}],
    "tool_choice": {"type": "function", "name": "f"},
    "include": ["message.output_text.logprobs"],
    "metadata": {"a": "b"},
}


def places(value: Any) -> list[tuple[Any, ...]]:
    """The paths to all parts of a value."""
    pairs: Any = value.items() if isinstance(value, dict) else ()
    pairs = enumerate(value) if isinstance(value, list) else pairs
    return [(), *((key, *rest) for key, inner in pairs for rest in places(inner))]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([(chat_request, WHOLE), (responses_request, RESPONSE)]), values, st.data())
def test_whatever_stands_anywhere_is_understood_or_refused(
    which: Any, value: Any, data: Any
) -> None:
    parse, body = which
    parse(body)
    *path, last = data.draw(st.sampled_from(places(body)[1:]))
    changed = inner = copy.deepcopy(body)
    for key in path:
        inner = inner[key]
    inner[last] = value
    with contextlib.suppress(WireError):
        parse(changed)


@settings(max_examples=100, deadline=None)
@given(values)
def test_whatever_is_sent_is_understood_or_refused(value: Any) -> None:
    for parse in (chat_request, completion_request, responses_request):
        with pytest.raises(WireError):
            parse(value)


STRICT = {"name": "f", "strict": True, "parameters": {"type": "object"}}
TOLD = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("asked", "constraint"),
    [
        ({"tools": [{"type": "function", "function": STRICT}]}, "text"),
        ({"tools": [TOLD], "parallel_tool_calls": False}, "text"),
        ({"tools": [TOLD], "parallel_tool_calls": True}, None),
        ({"parallel_tool_calls": False}, None),
        ({"tools": [{"type": "function", "function": STRICT}], "tool_choice": "required"}, None),
        (
            {
                "tools": [{"type": "function", "function": STRICT}],
                "response_format": {"type": "json_object"},
            },
            "json_object",
        ),
    ],
)
def test_strict_tools_and_single_calls_are_held_to(
    asked: dict[str, Any], constraint: str | None
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **asked}
    inputs = chat_request(body).inputs
    assert inputs.get("constraint", {}).get("kind") == constraint
    if "tools" in asked:
        assert inputs["tools"] == [TOLD]
    flat = {"type": "function", **STRICT}
    of_responses = responses_request({"model": "m", "input": "x", "tools": [flat]}).inputs
    assert of_responses["constraint"]["kind"] == "text"
    assert of_responses["tools"] == [TOLD]
