"""Asks an OpenAI-compatible endpoint in place of the engine: a node that another model plays."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from ..flow.effect import EffectOptions
from ..flow.endpoint import Endpoint, Spent
from ..flow.errors import UsageError
from ..flow.prompt import Message, Prompt, ToolCall
from ..flow.request import Answer, Constraint, Decoded, DecodeRequest, Generation, Refusal, Request
from .passed_through import PASSING, UpstreamError, certificates

_CHAT = "/chat/completions"


class EndpointError(Exception):
    """An endpoint has refused a request, or its answer is none; asking again would not help."""


@dataclass
class EndpointModel:
    """See ``flow.endpoint.Elsewhere``.

    Args:
        endpoint: its key is read anew for each request, and kept nowhere.

    Attributes:
        spent: counts what was asked.
    """

    endpoint: Endpoint
    spent: Spent = field(default_factory=Spent)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def name(self) -> str:
        return self.endpoint.name

    @property
    def options(self) -> EffectOptions:
        return EffectOptions(timeout=0, retries=self.endpoint.retries)  # see ``fetch``

    def body(self, request: Request) -> dict[str, Any]:
        if not isinstance(request, DecodeRequest):
            raise UsageError(
                f"{self.endpoint.name} at {self.endpoint.url} gives no log-probabilities of given"
                " texts, which the node asks for"
            )
        decoding = request.decoding
        body: dict[str, Any] = {
            "model": self.endpoint.name,
            "messages": _messages(request.prompt),
            "max_tokens": request.max_new_tokens,
            "temperature": 0.0 if decoding.greedy else decoding.temperature,
        }
        if not decoding.greedy:
            body |= {"top_p": decoding.top_p, "seed": _seed(request.seed)}
        if request.stop:
            body["stop"] = list(request.stop)
        if request.prompt.tools:
            body["tools"] = json.loads(request.prompt.tools)
        if request.constraint is not None:
            body |= _constrained(request.constraint, bool(request.prompt.tools))
        if request.logprobs:
            body["logprobs"] = True
        if "max_completion_tokens" in self.endpoint.options:
            del body["max_tokens"]
        return {**body, **self.endpoint.options}

    async def fetch(self, body: dict[str, Any]) -> dict[str, Any]:
        """The message and its figures, or the ``refused`` of an error that would not pass.

        Raises:
            UpstreamError: it cannot be reached, or says that it is to be tried again.
        """
        secret = self.endpoint.secret()
        headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
        url, seconds = self.endpoint.url + _CHAT, self.endpoint.timeout
        try:
            async with httpx2.AsyncClient(verify=certificates(), timeout=None) as client:
                asked = client.post(url, json=body, headers=headers)
                response = await asyncio.wait_for(asked, seconds or None)
        except httpx2.HTTPError as error:
            raise UpstreamError(502, f"{url}: {type(error).__name__}: {error}") from None
        except asyncio.TimeoutError:
            raise UpstreamError(504, f"{url} took longer than {seconds:g} seconds") from None
        status, text = response.status_code, response.text
        if secret:
            text = text.replace(secret, "***")
        if status in PASSING or status >= 500:
            raise UpstreamError(status, text[:2000])
        if status >= 400:
            return {"refused": f"{url} answered {status}: {text[:2000]}"}
        try:
            found = _read(json.loads(text))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            return {"refused": f"{url} answered with what is no chat completion: {error!r}"}
        found["cost"] = self.endpoint.cost(found["input_tokens"], found["output_tokens"])
        self._count(found)
        return found

    def answer(self, request: Request, fetched: Mapping[str, Any]) -> Answer:
        assert isinstance(request, DecodeRequest)
        if "refused" in fetched:
            if request.refusable:
                return Refusal(fetched["refused"])
            raise EndpointError(fetched["refused"])
        logprobs = fetched["logprobs"]
        generation = Generation(
            text=fetched["text"],
            tokens=(),
            logprob=None if logprobs is None else sum(value for _, value in logprobs),
            truncated=fetched["truncated"],
            token_logprobs=None if logprobs is None else tuple((t, v) for t, v in logprobs),
            tool_calls=tuple(ToolCall(*call) for call in fetched["tool_calls"]),
            token_count=fetched["output_tokens"],
        )
        return Decoded(request.prompt.text, fetched["input_tokens"], 0, (generation,), 0)

    def _count(self, found: Mapping[str, Any]) -> None:
        with self._lock:
            self.spent.requests += 1
            self.spent.input_tokens += found["input_tokens"]
            self.spent.output_tokens += found["output_tokens"]
            if found["cost"] is not None:
                self.spent.cost = (self.spent.cost or 0.0) + found["cost"]


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    """A chat as it is; a plain text is a user's message."""
    if not prompt.chat:
        return [{"role": "user", "content": prompt.text}]
    if prompt.prefill:
        raise UsageError(
            "the prompt begins the model's answer (prefill), which an endpoint does not continue:"
            " leave it out"
        )
    return [_message(message) for message in prompt.messages]


def _message(message: Message) -> dict[str, Any]:
    content = "".join(segment.text for segment in message.segments)
    shown: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        shown["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        shown["tool_call_id"] = message.tool_call_id
    elif message.name is not None:
        shown["name"] = message.name
    return shown


def _constrained(constraint: Constraint, has_tools: bool) -> dict[str, Any]:
    kind, value = constraint.kind, constraint.value
    if kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if kind == "json_schema":
        schema = {"name": "answer", "schema": json.loads(value)}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if kind == "text":
        return {"tool_choice": "none"} if has_tools else {}
    if kind == "tool_calls":
        name = json.loads(value)
        if name is None:
            return {"tool_choice": "required"}
        return {"tool_choice": {"type": "function", "function": {"name": name}}}
    raise UsageError(f"a constraint of the kind '{kind}' cannot be asked of an endpoint")


def _seed(parts: tuple[int | str, ...]) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "little") >> 1


def _read(completion: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a chat completion."""
    choice = completion["choices"][0]
    message, used = choice["message"], completion.get("usage") or {}
    calls = message.get("tool_calls") or []
    logprobs = (choice.get("logprobs") or {}).get("content")
    return {
        "text": message.get("content") or "",
        "tool_calls": [
            [str(call["id"]), call["function"]["name"], call["function"]["arguments"]]
            for call in calls
        ],
        "truncated": choice.get("finish_reason") == "length",
        "logprobs": logprobs and [[each["token"], float(each["logprob"])] for each in logprobs],
        "input_tokens": int(used.get("prompt_tokens", 0)),
        "output_tokens": int(used.get("completion_tokens", 0)),
    }
