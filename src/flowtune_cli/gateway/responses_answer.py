"""Answers of /responses: whole, or as the events of a finished text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .answers import token_logprobs, tool_calls, words
from .door import Answered
from .ids import wire_id
from .requests import Asked


def response(asked: Asked, answered: Answered) -> dict[str, Any]:
    """The answer to a request of /responses."""
    answer, key = answered.answer, answered.key
    complete = answer.finish_reason != "length"
    status = "completed" if complete else "incomplete"
    output: list[dict[str, Any]] = []
    if answer.text or not answer.tool_calls:
        part = {
            "type": "output_text",
            "text": answer.text,
            "annotations": [],
            "logprobs": token_logprobs(answer),
        }
        output.append(
            {
                "type": "message",
                "id": wire_id("msg_", key),
                "status": status,
                "role": "assistant",
                "content": [part],
            }
        )
    for number, call in enumerate(tool_calls(answered)):
        output.append(
            {
                "type": "function_call",
                "id": wire_id("fc_", key, number),
                "call_id": call["id"],
                **call["function"],
                "status": "completed",
            }
        )
    return {
        "id": wire_id("resp_", key),
        "object": "response",
        "created_at": answered.created,
        "status": status,
        "error": None,
        "incomplete_details": None if complete else {"reason": "max_output_tokens"},
        "model": asked.model,
        "output": output,
        "previous_response_id": None,
        "store": False,
        "text": {"format": {"type": "text"}},
        "truncation": "disabled",
        **asked.shown,
        "usage": {
            "input_tokens": answer.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": answer.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        },
    }


def response_events(made: Mapping[str, Any]) -> str:
    """An answer that is there, as server-sent events."""
    write = EventWriter()
    parts = [write(event) for event in begin_events(made)]
    for index, item in enumerate(made["output"]):
        if item["type"] == "message":
            parts += [write(event) for event in _message_events(index, item)]
        else:
            parts += [write(event) for event in _call_events(index, item)]
    return "".join([*parts, write(end_event(made))])


class EventWriter:
    """Writes the events of one answer, which are numbered."""

    def __init__(self) -> None:
        self._number = 0

    def __call__(self, event: Mapping[str, Any]) -> str:
        """An event as a server-sent event."""
        data = json.dumps({**event, "sequence_number": self._number})
        self._number += 1
        return f"event: {event['type']}\ndata: {data}\n\n"


def begin_events(made: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What comes before the output of an answer."""
    begun = {
        **made,
        "status": "in_progress",
        "incomplete_details": None,
        "output": [],
        "usage": None,
    }
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}


def end_event(made: Mapping[str, Any]) -> dict[str, Any]:
    """What comes behind the output."""
    return {"type": f"response.{made['status']}", "response": made}


def _message_events(index: int, item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    (part,) = item["content"]
    yield from begin_message(index, item)
    # All log-probabilities come first, as tokens do not end where words do.
    first = part["logprobs"]
    for word in words(part["text"]):
        yield text_delta(index, item, word, first)
        first = []
    yield from end_message(index, item)


def begin_message(index: int, item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What comes before the text of a message."""
    (part,) = item["content"]
    begun = {**item, "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    empty = {**part, "text": "", "logprobs": []}
    yield {"type": "response.content_part.added", **_at(index, item), "part": empty}


def text_delta(
    index: int, item: Mapping[str, Any], text: str, logprobs: Any = ()
) -> dict[str, Any]:
    """A piece of a message's text."""
    return {
        "type": "response.output_text.delta",
        **_at(index, item),
        "delta": text,
        "logprobs": list(logprobs),
    }


def end_message(index: int, item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What comes behind the text."""
    (part,) = item["content"]
    at = _at(index, item)
    done = {"text": part["text"], "logprobs": part["logprobs"]}
    yield {"type": "response.output_text.done", **at, **done}
    yield {"type": "response.content_part.done", **at, "part": part}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _at(index: int, item: Mapping[str, Any]) -> dict[str, Any]:
    return {"item_id": item["id"], "output_index": index, "content_index": 0}


def _call_events(index: int, item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    at = {"item_id": item["id"], "output_index": index}
    begun = {**item, "status": "in_progress", "arguments": ""}
    arguments = item["arguments"]
    kind = "response.function_call_arguments"
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    yield {"type": f"{kind}.delta", **at, "delta": arguments}
    yield {"type": f"{kind}.done", **at, "name": item["name"], "arguments": arguments}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}
