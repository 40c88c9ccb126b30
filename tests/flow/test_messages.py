"""Messages and tools in the form of OpenAI's API, and what is said of wrong ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flowtune_cli.flow.messages import ChatError, parse_messages, parse_tools
from flowtune_cli.flow.prompt import Message, Prompt, Segment, ToolCall

USER = {"role": "user", "content": "How warm is it?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"at": "X"}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWER = {"role": "tool", "tool_call_id": "c1", "content": "30 degrees"}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"at": {}}}},
}


def test_a_chat_with_tool_calls() -> None:
    developer = {"role": "developer", "content": [{"type": "text", "text": "Be"}] * 2}
    messages = parse_messages([developer, {**USER, "name": "Ann"}, CALLING, ANSWER])
    call = ToolCall("c1", "weather", '{"at": "X"}')
    assert messages == (
        Message("system", (Segment("BeBe"),)),
        Message("user", (Segment("How warm is it?"),), name="Ann"),
        Message("assistant", (), (call,)),
        Message("tool", (Segment("30 degrees"),), (), "c1", "weather"),
    )
    assert Prompt(messages, tools="[]").text == (
        "[tools]\n[]\n[system]\nBeBe\n[user]\nHow warm is it?\n"
        '[assistant]\nweather({"at": "X"})\n[tool]\n30 degrees'
    )


def test_contents_are_data() -> None:
    for message in parse_messages([USER, {"role": "system", "content": "<|im_end|>"}]):
        assert not any(segment.authored or segment.truncatable for segment in message.segments)


def test_tools_keep_their_order_and_letters() -> None:
    tool = {"type": "function", "function": {"name": "größe", "description": "b", "a": 1}}
    assert parse_tools([tool]) == json.dumps([tool], ensure_ascii=False)
    assert parse_tools(None) == parse_tools([]) == ""


def called(**more: Any) -> dict[str, Any]:
    return {**CALLING, "tool_calls": [CALL, {**CALL, "id": "c2", **more}]}


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], r"messages must be a list of one message or more; got \[\]"),
        ("hello", r"messages must be a list .* got 'hello'"),
        ([USER, "hello"], r"messages\[1\] must be an object; got 'hello'"),
        ([{"role": "usr"}], r"messages\[0\]: unknown role 'usr'\. Did you mean 'user'\?"),
        ([{"content": "x"}], r"messages\[0\]: unknown role 'None'"),
        ([{"role": "user"}], r"messages\[0\] has no content"),
        ([{"role": "user", "content": 3}], r"messages\[0\].content must be a text.* got 3"),
        (
            [USER, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}],
            r"messages\[1\].content\[1\] is of the type 'image', and only 'text' can be read",
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": None}]}],
            r"messages\[0\].content\[0\].text must be a text; got None",
        ),
        ([{"role": "user", "content": ["a"]}], r"messages\[0\].content\[0\] must be an object"),
        ([{**USER, "name": 4}], r"messages\[0\].name must be a text; got 4"),
        ([{**USER, "tool_calls": [CALL]}], r"messages\[0\] has tool_calls, which only an assist"),
        ([USER, {"role": "tool", "content": "x"}], r"messages\[1\] is a tool's, and has no tool_c"),
        ([USER, ANSWER], r"messages\[1\] answers the tool call 'c1', which no message before"),
        ([{**CALLING, "tool_calls": {"a": 1}}], r"messages\[0\].tool_calls must be a list"),
        ([called(function=None)], r"messages\[0\].tool_calls\[1\] must be an object with a funct"),
        ([called(id="")], r"messages\[0\].tool_calls\[1\].id must be a text; got ''"),
        ([called(function={"name": 3})], r"tool_calls\[1\].function.name must be a text; got 3"),
        (
            [called(function={"name": "f", "arguments": "[1]"})],
            r"tool_calls\[1\].function.arguments must be the text of a JSON object; got '\[1\]'",
        ),
        ([called(function={"name": "f", "arguments": {}})], r"the text of a JSON object; got \{\}"),
    ],
)
def test_wrong_messages_are_named_by_their_number(messages: Any, error: str) -> None:
    with pytest.raises(ChatError, match=error):
        parse_messages(messages)


@pytest.mark.parametrize(
    ("tools", "error"),
    [
        ({"a": 1}, r"tools must be a list; got \{'a': 1\}"),
        ([TOOL, {"type": "web"}], r"tools\[1\] must be an object with the type 'function'"),
        ([{"type": "function"}], r"tools\[0\].function must be an object; got None"),
        ([{**TOOL, "function": {}}], r"tools\[0\].function.name must be a text; got None"),
        ([TOOL, TOOL], r"tools\[1\] has the name of tools\[0\]: 'weather'"),
        (
            [{**TOOL, "function": {"name": "f", "parameters": []}}],
            r"tools\[0\].function.parameters must be a JSON schema",
        ),
        ([{**TOOL, "strict": {1, 2}}], r"tools must be JSON values: .*set"),
        ([{**TOOL, "x": float("nan")}], r"tools must be JSON values: Out of range"),
    ],
)
def test_wrong_tools_are_named_by_their_number(tools: Any, error: str) -> None:
    with pytest.raises(ChatError, match=error):
        parse_tools(tools)
