"""Answers of chat and text completions: whole, or as the chunks of a finished text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from ..flow.chat import ChatAnswer
from .door import Answered
from .ids import tool_call_id, wire_id
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
        "created": answered.created,
        "model": asked.model,
        "choices": [choice],
        "usage": usage(answer),
    }


class ChatChunks:
    """Makes the chunks of an answer that ``chat_completion``, or another server, makes.

    Args:
        completion: has the ``id``, ``created`` and ``model``.
        include_usage: the last chunk has the usage.
    """

    def __init__(self, completion: Mapping[str, Any], include_usage: bool) -> None:
        self._head = {
            **{name: completion[name] for name in ("id", "created", "model")},
            "object": "chat.completion.chunk",
        }
        self._include_usage = include_usage
        if include_usage:
            self._head["usage"] = None

    def _chunk(self, index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **more}
        return {**self._head, "choices": [choice]}

    def begin(self, index: int = 0, logprobs: Any = None) -> dict[str, Any]:
        """The first chunk, with all log-probabilities, as tokens do not end where words do."""
        return self._chunk(index, {"role": "assistant", "content": ""}, logprobs=logprobs)

    def text(self, text: str, index: int = 0) -> dict[str, Any]:
        """A piece of the text."""
        return self._chunk(index, {"content": text})

    def end(self, choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What comes behind the text of a choice."""
        index = choice["index"]
        for number, call in enumerate(choice["message"].get("tool_calls") or ()):
            begun = {**call["function"], "arguments": ""}
            yield self._chunk(index, {"tool_calls": [{**call, "index": number, "function": begun}]})
            rest = {"index": number, "function": {"arguments": call["function"]["arguments"]}}
            yield self._chunk(index, {"tool_calls": [rest]})
        yield self._chunk(index, {}, finish_reason=choice["finish_reason"])

    def usage(self, completion: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The usage, if it was asked for."""
        if self._include_usage:
            yield {**self._head, "choices": [], "usage": completion.get("usage")}


def chat_chunks(completion: Mapping[str, Any], include_usage: bool) -> Iterator[dict[str, Any]]:
    """The chunks of an answer that is there."""
    made = ChatChunks(completion, include_usage)
    for choice in completion["choices"]:
        index = choice["index"]
        yield made.begin(index, choice.get("logprobs"))
        for word in words(choice["message"].get("content") or ""):
            yield made.text(word, index)
        yield from made.end(choice)
    yield from made.usage(completion)


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
        "created": answered.created,
        "model": asked.model,
        "choices": [choice],
        "usage": usage(answer),
    }


class TextChunks:
    """Makes the chunks of an answer that ``text_completion`` makes; see ``ChatChunks``."""

    def __init__(self, completion: Mapping[str, Any], include_usage: bool) -> None:
        self._head = {k: v for k, v in completion.items() if k not in ("usage", "choices")}
        self._include_usage = include_usage
        if include_usage:
            self._head["usage"] = None

    def text(self, text: str, logprobs: Any = None) -> dict[str, Any]:
        """A piece of the text; the first one has all log-probabilities."""
        return self._chunk({"text": text, "logprobs": logprobs, "finish_reason": None})

    def end(self, choice: Mapping[str, Any], logprobs: Any = None) -> dict[str, Any]:
        """What comes behind the text."""
        return self._chunk(
            {"text": "", "logprobs": logprobs, "finish_reason": choice["finish_reason"]}
        )

    def usage(self, completion: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The usage, if it was asked for."""
        if self._include_usage:
            yield {**self._head, "choices": [], "usage": completion["usage"]}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self._head, "choices": [{"index": 0, **choice}]}


def text_chunks(completion: Mapping[str, Any], include_usage: bool) -> Iterator[dict[str, Any]]:
    """The chunks of an answer that is there."""
    made = TextChunks(completion, include_usage)
    (choice,) = completion["choices"]
    logprobs = choice["logprobs"]
    for word in words(choice["text"]):
        yield made.text(word, logprobs)
        logprobs = None
    yield made.end(choice, logprobs)
    yield from made.usage(completion)


def events(chunks: Iterable[dict[str, Any]]) -> str:
    """All chunks of an answer as server-sent events."""
    return "".join(map(event, chunks)) + DONE


def event(chunk: Mapping[str, Any]) -> str:
    """A chunk as a server-sent event."""
    return f"data: {json.dumps(chunk)}\n\n"


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
