"""Messages and tools as the documents that chat templates of transformers read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ..flow.prompt import Message, Prompt, Segment

Document = dict[str, Any]
Shown = Callable[[Sequence[Segment]], str]
"""What a template is to write for a text that consists of segments."""


def message_documents(messages: Sequence[Message], shown: Shown) -> list[Document]:
    """One a message; arguments of tool calls are objects, as templates write JSON themselves."""
    documents: list[Document] = []
    for message in messages:
        document: Document = {"role": message.role, "content": shown(message.segments)}
        if message.tool_calls:
            document["tool_calls"] = [
                {
                    "type": "function",
                    "id": _shown(call.id, shown),
                    "function": {
                        "name": _shown(call.name, shown),
                        "arguments": _shown(json.loads(call.arguments), shown),
                    },
                }
                for call in message.tool_calls
            ]
        if message.tool_call_id is not None:
            document["tool_call_id"] = _shown(message.tool_call_id, shown)
        if message.name is not None:
            document["name"] = _shown(message.name, shown)
        documents.append(document)
    return documents


def tool_documents(tools: str, shown: Shown) -> list[Any]:
    """The tools of a prompt; their names and descriptions are data."""
    found: list[Any] = _shown(json.loads(tools), shown) if tools else []
    return found


def texts(prompt: Prompt) -> str:
    """All that a template may be given of a prompt, without the escapes of JSON."""
    values = [json.loads(prompt.tools)] if prompt.tools else []
    for message in prompt.messages:
        values += [message.name, message.tool_call_id]
        values += [[c.id, c.name, json.loads(c.arguments)] for c in message.tool_calls]
    return prompt.text + json.dumps(values, ensure_ascii=False)


def _shown(value: Any, shown: Shown) -> Any:
    """A JSON value whose texts, those of keys too, come from data."""
    if isinstance(value, str):
        return shown([Segment(value)])
    if isinstance(value, list):
        return [_shown(item, shown) for item in value]
    if isinstance(value, dict):
        return {_shown(key, shown): _shown(item, shown) for key, item in value.items()}
    return value
