"""Chat messages and tools, in the form of OpenAI's API, as the messages of a prompt.

All texts in them are data: special tokens that they spell out are plain text to the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import unknown_name
from .prompt import Message, Segment, ToolCall

ROLES = ("system", "developer", "user", "assistant", "tool")


class ChatError(ValueError):
    """A call's inputs are no chat; says which part of them, and why."""


def parse_messages(messages: Any) -> tuple[Message, ...]:
    """The messages of a chat.

    Args:
        messages: a list of objects with ``role`` and ``content``, a text or a list of text parts.
            An assistant's may have ``tool_calls``, a tool's has a ``tool_call_id``. ``developer``
            is another name of ``system``.

    Raises:
        ChatError: what is wrong, and in which message, from 0.
    """
    if not _is_list(messages) or not messages:
        raise ChatError(f"messages must be a list of one message or more; got {_short(messages)}")
    parsed: list[Message] = []
    called: dict[str, str] = {}
    for index, message in enumerate(messages):
        found = _message(f"messages[{index}]", message, called)
        called.update((call.id, call.name) for call in found.tool_calls)
        parsed.append(found)
    return tuple(parsed)


def parse_tools(tools: Any) -> str:
    """Tools as canonical JSON text; empty for None or an empty list.

    Args:
        tools: a list of ``{"type": "function", "function": {"name": ..., "parameters": ...}}``.

    Raises:
        ChatError: what is wrong, and in which tool, from 0.
    """
    if tools is None or (_is_list(tools) and not tools):
        return ""
    if not _is_list(tools):
        raise ChatError(f"tools must be a list; got {_short(tools)}")
    names: list[str] = []
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if not isinstance(tool, Mapping) or tool.get("type") != "function":
            raise ChatError(f"{where} must be an object with the type 'function': {_short(tool)}")
        function = tool.get("function")
        if not isinstance(function, Mapping):
            raise ChatError(f"{where}.function must be an object; got {_short(function)}")
        name = function.get("name")
        if not isinstance(name, str) or not name:
            raise ChatError(f"{where}.function.name must be a text; got {_short(name)}")
        if not isinstance(function.get("parameters", {}), Mapping):
            raise ChatError(f"{where}.function.parameters must be a JSON schema, an object")
        if name in names:
            raise ChatError(f"{where} has the name of tools[{names.index(name)}]: '{name}'")
        names.append(name)
    return canonical_json(tools, "tools")


def canonical_json(value: Any, what: str) -> str:
    """A JSON value as text: the order of keys is kept, as it is shown to the model.

    Raises:
        ChatError: it is no JSON value.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ChatError(f"{what} must be JSON values: {error}") from None


def _message(where: str, message: Any, called: Mapping[str, str]) -> Message:
    if not isinstance(message, Mapping):
        raise ChatError(f"{where} must be an object; got {_short(message)}")
    role = message.get("role")
    if role not in ROLES:
        raise ChatError(f"{where}: {unknown_name('role', str(role), list(ROLES))}")
    name = message.get("name")
    if name is not None and not isinstance(name, str):
        raise ChatError(f"{where}.name must be a text; got {_short(name)}")
    calls: tuple[ToolCall, ...] = ()
    if message.get("tool_calls"):
        if role != "assistant":
            raise ChatError(f"{where} has tool_calls, which only an assistant's message may have")
        calls = _tool_calls(f"{where}.tool_calls", message["tool_calls"])
    answered = None
    if role == "tool":
        answered = message.get("tool_call_id")
        if not isinstance(answered, str) or not answered:
            raise ChatError(f"{where} is a tool's, and has no tool_call_id: whose answer is it?")
        if answered not in called:
            raise ChatError(
                f"{where} answers the tool call '{answered}', which no message before it has made"
            )
        name = name or called[answered]
    content = message.get("content")
    if content is None and not calls:
        raise ChatError(f"{where} has no content")
    text = "" if content is None else _text(f"{where}.content", content)
    segments = (Segment(text),) if text else ()
    return Message("system" if role == "developer" else role, segments, calls, answered, name)


def _text(where: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not _is_list(content):
        raise ChatError(f"{where} must be a text, or a list of text parts; got {_short(content)}")
    texts = []
    for index, part in enumerate(content):
        if not isinstance(part, Mapping):
            raise ChatError(f"{where}[{index}] must be an object; got {_short(part)}")
        if part.get("type") != "text":
            raise ChatError(
                f"{where}[{index}] is of the type {_short(part.get('type'))}, and only 'text' can"
                " be read"
            )
        if not isinstance(part.get("text"), str):
            raise ChatError(f"{where}[{index}].text must be a text; got {_short(part.get('text'))}")
        texts.append(part["text"])
    return "".join(texts)


def _tool_calls(where: str, calls: Any) -> tuple[ToolCall, ...]:
    if not _is_list(calls):
        raise ChatError(f"{where} must be a list; got {_short(calls)}")
    parsed = []
    for index, call in enumerate(calls):
        at = f"{where}[{index}]"
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise ChatError(f"{at} must be an object with a function; got {_short(call)}")
        for what, value in (("id", call.get("id")), ("function.name", function.get("name"))):
            if not isinstance(value, str) or not value:
                raise ChatError(f"{at}.{what} must be a text; got {_short(value)}")
        arguments = function.get("arguments")
        if not isinstance(arguments, str) or not is_json_object(arguments):
            raise ChatError(
                f"{at}.function.arguments must be the text of a JSON object; got"
                f" {_short(arguments)}"
            )
        parsed.append(ToolCall(call["id"], function["name"], arguments))
    return tuple(parsed)


def is_json_object(text: str) -> bool:
    """Whether a text is a JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
