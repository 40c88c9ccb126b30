"""Chat messages of a request: checked, and written in one way."""

from __future__ import annotations

from typing import Any

from .errors import invalid, unsupported
from .fields import Fields

_ROLES = ("system", "developer", "user", "assistant", "tool")


def chat_messages(values: list[Any], place: str = "messages") -> list[dict[str, Any]]:
    """The messages as a chat node takes them; developers' are the system's.

    Raises:
        WireError: names the message and the field.
    """
    if not values:
        raise invalid(place, "there are none")
    messages: list[dict[str, Any]] = []
    called: set[str] = set()
    for number, value in enumerate(values):
        message = _message(Fields(value, f"{place}[{number}]"))
        if message["role"] == "tool" and message["tool_call_id"] not in called:
            raise invalid(
                f"{place}[{number}].tool_call_id",
                f"no message before it has a tool call '{message['tool_call_id']}'",
            )
        called.update(call["id"] for call in message.get("tool_calls", ()))
        messages.append(message)
    return messages


def _message(fields: Fields) -> dict[str, Any]:
    role = fields.required_text("role")
    if role not in _ROLES:
        raise unsupported(
            fields.name_of("role"), f"must be one of {', '.join(_ROLES)}, and is '{role}'"
        )
    message: dict[str, Any] = {"role": "system" if role == "developer" else role}
    if role == "assistant":
        calls = [
            _tool_call(Fields(call, f"{fields.name_of('tool_calls')}[{number}]"))
            for number, call in enumerate(fields.list("tool_calls"))
        ]
        content = fields.raw("content") if calls else fields.required("content")
        message["content"] = "" if content is None else text_content(fields, content)
        if calls:
            message["tool_calls"] = calls
        # What clients send back of an answer; they have parsed it themselves.
        fields.raw("parsed")
        why = "it is not known to the model"
        fields.nothing_but(dict.fromkeys(("refusal", "audio", "function_call"), ((), why)))
        fields.nothing_but({"annotations": (([],), why)})
    else:
        message["content"] = text_content(fields, fields.required("content"))
    if role == "tool":
        message["tool_call_id"] = fields.required_text("tool_call_id")
    name = fields.text("name")
    if name is not None:
        message["name"] = name
    fields.end()
    return message


def text_content(
    fields: Fields, content: Any, kinds: tuple[str, ...] = ("text",)
) -> str | list[dict[str, str]]:
    """A message's content: a text, or parts that are texts.

    Args:
        kinds: the types of parts that are texts.
    """
    if isinstance(content, str):
        return content
    place = fields.name_of("content")
    if not isinstance(content, list):
        raise invalid(place, "must be a text or an array of parts")
    if not content:
        raise invalid(place, "has no parts")
    return [
        {"type": "text", "text": _part(p, f"{place}[{n}]", kinds)} for n, p in enumerate(content)
    ]


def _part(value: Any, place: str, kinds: tuple[str, ...]) -> str:
    part = Fields(value, place)
    kind = part.required_text("type")
    if kind not in kinds:
        raise unsupported(
            part.name_of("type"), f"nodes read text alone ({', '.join(kinds)}), and no '{kind}'"
        )
    text = part.required_text("text")
    # What clients send back of an answer.
    part.raw("annotations")
    part.raw("logprobs")
    part.end()
    return text


def _tool_call(fields: Fields) -> dict[str, Any]:
    call_id = fields.required_text("id")
    fields.raw("index")
    kind = fields.one_of("type", ("function",), "a custom tool's input is no JSON")
    function = Fields(fields.required("function"), fields.name_of("function"))
    made = {
        "id": call_id,
        "type": kind or "function",
        "function": {
            "name": function.required_text("name"),
            "arguments": function.required_text("arguments"),
        },
    }
    # Parsed by the client's own helper, and sent back by it.
    function.raw("parsed_arguments")
    function.end()
    fields.end()
    return made
