"""Answers of /responses: whole, or as the events of a finished text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .answers import token_logprobs, tool_calls, words
from .door import Answered
from .ids import created, wire_id
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
        "created_at": created(key),
        "status": status,
        "error": None,
        "incomplete_details": None if complete else {"reason": "max_output_tokens"},
        "model": asked.model,
        "output": output,
        "parallel_tool_calls": True,
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


def response_events(made: dict[str, Any]) -> str:
    """The answer as server-sent events."""
    parts = []
    for number, event in enumerate(_events(made)):
        data = json.dumps({**event, "sequence_number": number})
        parts.append(f"event: {event['type']}\ndata: {data}\n\n")
    return "".join(parts)


def _events(made: dict[str, Any]) -> Iterator[dict[str, Any]]:
    begun = {
        **made,
        "status": "in_progress",
        "incomplete_details": None,
        "output": [],
        "usage": None,
    }
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(made["output"]):
        if item["type"] == "message":
            yield from _message_events(index, item)
        else:
            yield from _call_events(index, item)
    yield {"type": f"response.{made['status']}", "response": made}


def _message_events(index: int, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    (part,) = item["content"]
    text, logprobs = part["text"], part["logprobs"]
    at = {"item_id": item["id"], "output_index": index, "content_index": 0}
    begun = {**item, "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    empty = {**part, "text": "", "logprobs": []}
    yield {"type": "response.content_part.added", **at, "part": empty}
    # All log-probabilities come first, as tokens do not end where words do.
    first = logprobs
    for word in words(text):
        yield {"type": "response.output_text.delta", **at, "delta": word, "logprobs": first}
        first = []
    yield {"type": "response.output_text.done", **at, "text": text, "logprobs": logprobs}
    yield {"type": "response.content_part.done", **at, "part": part}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _call_events(index: int, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    at = {"item_id": item["id"], "output_index": index}
    begun = {**item, "status": "in_progress", "arguments": ""}
    arguments = item["arguments"]
    kind = "response.function_call_arguments"
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    yield {"type": f"{kind}.delta", **at, "delta": arguments}
    yield {"type": f"{kind}.done", **at, "name": item["name"], "arguments": arguments}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}
