"""An assistant's message that a Chat node should have answered, tool calls and all."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..flow.errors import UsageError, unknown_name
from ..flow.messages import ChatError, parse_messages
from ..flow.prompt import Message, ToolCall
from ..flow.request import Constraint

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


def check_possible(node: str, answer: str | Message, constraint: Constraint | None) -> None:
    """Check that an answer is not one which the call's own constraint never lets the node write.

    Of a JSON schema only the outermost shape is looked at.

    Raises:
        UsageError: it is.
    """
    if constraint is None:
        return
    calls = () if isinstance(answer, str) else answer.tool_calls
    text = answer if isinstance(answer, str) else answer.text
    if constraint.kind == "tool_calls":
        why = _why_no_call(calls, constraint)
    else:
        why = None if calls else _why_no_text(text, constraint)
    if why is not None:
        raise UsageError(
            f"node '{node}': the target {_short(text)} cannot be written under the constraint of"
            f" its call: {why}"
        )


def _why_no_call(calls: Sequence[ToolCall], constraint: Constraint) -> str | None:
    if not calls:
        return "a tool has to be called (tool_choice)"
    name = json.loads(constraint.value)
    if name is not None and any(call.name != name for call in calls):
        return f"the tool '{name}' has to be called (tool_choice)"
    return None


def _why_no_text(text: str, constraint: Constraint) -> str | None:
    if constraint.kind == "choice":
        options = json.loads(constraint.value)
        known = any(text == option.strip() for option in options)
        return None if known else f"it is none of {', '.join(map(repr, options))}"
    if constraint.kind == "regex":
        try:
            matches = any(re.fullmatch(constraint.value, each) for each in (text, f" {text}"))
        except re.error:  # of another dialect
            return None
        return None if matches else f"it does not match the regex {constraint.value}"
    if not constraint.is_json:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"it is not JSON: {error}"
    schema = {} if constraint.kind == "json_object" else json.loads(constraint.value)
    if constraint.kind == "json_object" or _is_of_objects(schema):
        if not isinstance(value, Mapping):
            return "it is no JSON object"
        missing = [name for name in schema.get("required", ()) if name not in value]
        if missing:
            return f"it lacks what the schema requires: {', '.join(missing)}"
    return None


def _is_of_objects(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "object"


def _short(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:57]!r}..."


def _whole(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if isinstance(function, Mapping) and isinstance(function.get("arguments"), Mapping):
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        function = {**function, "arguments": arguments}
    return {"id": _ID, **call, "function": function}
