"""An assistant's message that a Chat node should have answered, tool calls and all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..flow.errors import UsageError, unknown_name
from ..flow.messages import ChatError, parse_messages
from ..flow.prompt import Message

_ID = "000000000"
"""Of calls that have none; some chat templates take nine letters and digits alone."""


def parse_answer(node: str, gold: Mapping[str, Any], tools: str) -> str | Message:
    """The message that is a target; its text, where it calls no tool.

    Args:
        gold: in OpenAI's form. ``role`` and the ``id`` and ``type`` of tool calls may be missing,
            and ``arguments`` may be an object.
        tools: those of the call, as JSON text.

    Raises:
        UsageError: it is no such message, or calls a tool that the call does not have.
    """
    given = {"role": "assistant", **gold}
    calls = given.get("tool_calls")
    if isinstance(calls, (list, tuple)) and all(isinstance(call, Mapping) for call in calls):
        given["tool_calls"] = [_whole(call) for call in calls]
    try:
        (message,) = parse_messages([given])
    except ChatError as error:
        raise UsageError(f"node '{node}': the target is no message: {error}") from None
    if message.role != "assistant":
        raise UsageError(f"node '{node}': the target is a message of the role '{message.role}'")
    if not message.text.strip():
        raise UsageError(f"node '{node}': the target is an empty message")
    names = [tool["function"]["name"] for tool in json.loads(tools or "[]")]
    for call in message.tool_calls:
        if call.name not in names:
            found = unknown_name("tool of the call", call.name, names)
            raise UsageError(f"node '{node}': the target calls another tool: {found}")
    return message if message.tool_calls else message.text.strip()


def _whole(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if isinstance(function, Mapping) and isinstance(function.get("arguments"), Mapping):
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        function = {**function, "arguments": arguments}
    return {"id": _ID, **call, "function": function}
