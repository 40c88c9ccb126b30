"""Requests of chat and text completions: what a node is asked, and how its answer is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import invalid, unsupported
from .fields import Fields
from .messages import chat_messages
from .tools import chat_constraint, chat_tools, held, tool_choice

NODE_IS_ONE = "a node gives one answer a call; make further calls for further answers"
REFUSED: Mapping[str, tuple[Sequence[Any], str]] = {
    "n": ((1,), NODE_IS_ONE),
    "logit_bias": (({},), "the likelihoods of single tokens cannot be changed"),
    "frequency_penalty": ((0,), "penalties are not supported"),
    "presence_penalty": ((0,), "penalties are not supported"),
}
"""Fields that cannot be honoured: the values that ask for nothing, and why others are refused."""

CHAT_REFUSED: Mapping[str, tuple[Sequence[Any], str]] = {
    **REFUSED,
    "audio": ((), "nodes write text alone"),
    "functions": ((), "it was replaced by 'tools'"),
    "function_call": ((), "it was replaced by 'tool_choice'"),
    "modalities": ((["text"],), "nodes write text alone"),
    "moderation": ((), "there is no moderation"),
    "prediction": ((), "there are no predicted outputs"),
    "reasoning_effort": ((), "how long a model thinks cannot be set"),
    "service_tier": (("auto", "default"), "there are no tiers"),
    "store": ((False,), "completions are not kept for later requests"),
    "top_logprobs": ((0,), "only the log-probabilities of the answer's own tokens are known"),
    "verbosity": ((), "say it in a message"),
    "web_search_options": ((), "there is no web search"),
}

LABELS = ("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
"""Texts that change nothing in an answer."""


@dataclass(frozen=True)
class Asked:
    """A request.

    Args:
        inputs: of the node's call.
        stream: send the answer as events.
        include_usage: and its usage as the last of them.
        shown: fields of the request that the answer repeats.
    """

    model: str
    inputs: Mapping[str, Any]
    stream: bool = False
    include_usage: bool = False
    shown: Mapping[str, Any] = field(default_factory=dict)


def chat_request(body: Any) -> Asked:
    """A request of /chat/completions."""
    fields = Fields(body)
    model = fields.required_text("model")
    messages = fields.required("messages")
    if not isinstance(messages, list):
        raise invalid("messages", "must be an array")
    inputs: dict[str, Any] = {"messages": chat_messages(messages)}
    tools = chat_tools(fields)
    choice = tool_choice(fields, tools)
    _put(inputs, "constraint", held(fields, tools, choice, chat_constraint(fields)))
    _put(inputs, "tools", tools or None)
    _put(inputs, "tool_choice", choice)
    put_sampling(inputs, fields)
    _put(inputs, "max_tokens", _max_tokens(fields))
    if fields.flag("logprobs"):
        inputs["logprobs"] = True
    stream, include_usage = _streaming(fields)
    check_labels(fields)
    fields.nothing_but(CHAT_REFUSED)
    fields.end()
    return Asked(model, inputs, stream, include_usage)


def completion_request(body: Any) -> Asked:
    """A request of /completions, whose prompt is the only message, a user's."""
    fields = Fields(body)
    model = fields.required_text("model")
    prompt = fields.required("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise unsupported("prompt", "must be one text: no token ids, and one prompt a request")
    inputs: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
    put_sampling(inputs, fields)
    _put(inputs, "max_tokens", fields.integer("max_tokens", 1))
    logprobs = fields.integer("logprobs", 0)
    if logprobs:
        raise unsupported("logprobs", "must be 0: only the answer's own tokens are known")
    if logprobs is not None:
        inputs["logprobs"] = True
    stream, include_usage = _streaming(fields)
    check_labels(fields)
    fields.nothing_but(
        {
            **REFUSED,
            "best_of": ((1,), NODE_IS_ONE),
            "echo": ((False,), "put the prompt before the answer yourself"),
            "suffix": ((), "nodes do not fill in the middle"),
        }
    )
    fields.end()
    return Asked(model, inputs, stream, include_usage)


def put_sampling(inputs: dict[str, Any], fields: Fields) -> None:
    """Take what says how an answer is drawn; what is left out is the node's setting."""
    _put(inputs, "temperature", fields.number("temperature", 0, 2))
    top_p = fields.number("top_p", 0, 1)
    if top_p == 0:
        raise invalid("top_p", "must be more than 0; temperature 0 is greedy")
    _put(inputs, "top_p", top_p)
    _put(inputs, "stop", _stop(fields))
    _put(inputs, "seed", fields.integer("seed"))


def check_labels(fields: Fields) -> None:
    """Take what changes nothing in an answer."""
    for name in LABELS:
        fields.label(name)
    metadata = fields.raw("metadata")
    if metadata is not None:
        for value in _values(metadata):
            if not isinstance(value, str):
                raise invalid("metadata", "must be an object whose values are texts")


def _values(metadata: Any) -> list[Any]:
    if not isinstance(metadata, dict):
        raise invalid("metadata", "must be an object")
    return list(metadata.values())


def _put(inputs: dict[str, Any], name: str, value: Any) -> None:
    if value is not None:
        inputs[name] = value


def _max_tokens(fields: Fields) -> int | None:
    old = fields.integer("max_tokens", 1)
    new = fields.integer("max_completion_tokens", 1)
    if old is not None and new is not None and old != new:
        raise invalid("max_tokens", f"is {old}, and max_completion_tokens is {new}")
    return old if new is None else new


def _stop(fields: Fields) -> list[str] | None:
    value = fields.raw("stop")
    stops = [value] if isinstance(value, str) else value
    if stops is None or stops == []:
        return None
    if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
        raise invalid("stop", "must be a text or an array of texts, none of them empty")
    return stops


def _streaming(fields: Fields) -> tuple[bool, bool]:
    stream = fields.flag("stream")
    options = fields.raw("stream_options")
    if options is None:
        return stream, False
    if not stream:
        raise invalid("stream_options", "is for requests with 'stream'")
    inner = Fields(options, "stream_options")
    include_usage = inner.flag("include_usage")
    inner.flag("include_obfuscation")
    inner.end()
    return stream, include_usage
