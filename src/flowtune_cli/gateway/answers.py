"""Answers of chat and text completions: whole, or as the chunks of a finished text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from ..flow.chat import ChatAnswer
from .door import Answered
from .ids import created, tool_call_id, wire_id
from .requests import Asked

_WORDS = re.compile(r"\S+\s*|\s+")
_LEAST_LOGPROB = -9999.0
"""As OpenAI's API has it; JSON has no infinity."""
DONE = "data: [DONE]\n\n"


def chat_completion(asked: Asked, answered: Answered) -> dict[str, Any]:
    """The answer to a request of /chat/completions."""
    answer = answered.answer
    calls = tool_calls(answered)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.text if answer.text or not calls else None,
        "refusal": None,
    }
    if calls:
        message["tool_calls"] = calls
    choice = {
        "index": 0,
        "message": message,
        "logprobs": _chat_logprobs(answer),
        "finish_reason": answer.finish_reason,
    }
    return {
        "id": wire_id("chatcmpl-", answered.key),
        "object": "chat.completion",
        "created": created(answered.key),
        "model": asked.model,
        "choices": [choice],
        "usage": usage(answer),
    }


def chat_chunks(completion: dict[str, Any], include_usage: bool) -> Iterator[dict[str, Any]]:
    """The chunks of an answer that ``chat_completion``, or another server, has made."""
    head = {
        **{name: completion[name] for name in ("id", "created", "model")},
        "object": "chat.completion.chunk",
    }
    if include_usage:
        head["usage"] = None

    def chunk(index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **more}
        return {**head, "choices": [choice]}

    for choice in completion["choices"]:
        index, message = choice["index"], choice["message"]
        # All log-probabilities come first, as tokens do not end where words do.
        first = {"role": "assistant", "content": ""}
        yield chunk(index, first, logprobs=choice.get("logprobs"))
        for word in words(message.get("content") or ""):
            yield chunk(index, {"content": word})
        for number, call in enumerate(message.get("tool_calls") or ()):
            begun = {**call["function"], "arguments": ""}
            yield chunk(index, {"tool_calls": [{**call, "index": number, "function": begun}]})
            rest = {"index": number, "function": {"arguments": call["function"]["arguments"]}}
            yield chunk(index, {"tool_calls": [rest]})
        yield chunk(index, {}, finish_reason=choice["finish_reason"])
    if include_usage:
        yield {**head, "choices": [], "usage": completion.get("usage")}


def text_completion(asked: Asked, answered: Answered) -> dict[str, Any]:
    """The answer to a request of /completions."""
    answer = answered.answer
    choice = {
        "index": 0,
        "text": answer.text,
        "logprobs": _text_logprobs(answer),
        "finish_reason": "length" if answer.finish_reason == "length" else "stop",
    }
    return {
        "id": wire_id("cmpl-", answered.key),
        "object": "text_completion",
        "created": created(answered.key),
        "model": asked.model,
        "choices": [choice],
        "usage": usage(answer),
    }


def text_chunks(completion: dict[str, Any], include_usage: bool) -> Iterator[dict[str, Any]]:
    """The chunks of an answer that ``text_completion`` has made."""
    head = {**completion}
    del head["usage"]
    if include_usage:
        head["usage"] = None
    (choice,) = completion["choices"]
    logprobs = choice["logprobs"]
    for word in words(choice["text"]):
        part = {"index": 0, "text": word, "logprobs": logprobs, "finish_reason": None}
        yield {**head, "choices": [part]}
        logprobs = None
    last = {"text": "", "logprobs": logprobs, "finish_reason": choice["finish_reason"]}
    yield {**head, "choices": [{"index": 0, **last}]}
    if include_usage:
        yield {**head, "choices": [], "usage": completion["usage"]}


def events(chunks: Iterable[dict[str, Any]]) -> str:
    """Chunks as server-sent events."""
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + DONE


def words(text: str) -> list[str]:
    """The parts in which a text is streamed."""
    return _WORDS.findall(text)


def tool_calls(answered: Answered) -> list[dict[str, Any]]:
    """The tool calls of an answer, with ids of the wire."""
    return [
        {
            "id": tool_call_id(answered.key, number),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for number, call in enumerate(answered.answer.tool_calls)
    ]


def usage(answer: ChatAnswer) -> dict[str, int]:
    """The numbers of tokens."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
    }


def token_logprobs(answer: ChatAnswer) -> list[dict[str, Any]]:
    """Each token with its log-probability; empty where they were not asked for."""
    return [
        {
            "token": token,
            "logprob": max(logprob, _LEAST_LOGPROB),
            "bytes": list(token.encode("utf-8", "surrogatepass")),
            "top_logprobs": [],
        }
        for token, logprob in answer.token_logprobs or ()
    ]


def _chat_logprobs(answer: ChatAnswer) -> dict[str, Any] | None:
    if answer.token_logprobs is None:
        return None
    return {"content": token_logprobs(answer), "refusal": None}


def _text_logprobs(answer: ChatAnswer) -> dict[str, Any] | None:
    if answer.token_logprobs is None:
        return None
    tokens = [token for token, _ in answer.token_logprobs]
    offsets = [0, *accumulate(map(len, tokens))][: len(tokens)]
    return {
        "tokens": tokens,
        "token_logprobs": [max(each, _LEAST_LOGPROB) for _, each in answer.token_logprobs],
        "top_logprobs": None,
        "text_offset": offsets,
    }
