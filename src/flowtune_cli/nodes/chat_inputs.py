"""What a call of a Chat node gives, checked, with the node's settings for what it leaves out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ..flow.errors import unknown_name
from ..flow.messages import ChatError, canonical_json, parse_messages, parse_tools
from ..flow.numbers import is_bool, real_number
from ..flow.prompt import Message, Prompt
from ..flow.request import Constraint, ConstraintKind

KNOWN = (
    "messages",
    "tools",
    "tool_choice",
    "constraint",
    "temperature",
    "top_p",
    "max_tokens",
    "stop",
    "logprobs",
    "seed",
)


@dataclass(frozen=True)
class ChatInputs:
    """A call, parsed.

    Args:
        canonical: JSON text that is the same for all calls which ask for the same.
    """

    prompt: Prompt
    constraint: Constraint | None
    temperature: float
    top_p: float
    max_tokens: int
    stop: tuple[str, ...]
    logprobs: bool
    seed: int | None
    canonical: str


def parse_inputs(
    inputs: Mapping[str, Any],
    *,
    temperature: float,
    top_p: float,
    max_tokens: int,
    stop: tuple[str, ...],
) -> ChatInputs:
    """A call's inputs; the arguments are the node's settings. None is the same as left out.

    Raises:
        ChatError: what is wrong with which input.
    """
    for name in inputs:
        if name not in KNOWN:
            raise ChatError(str(unknown_name("input of a chat", name, list(KNOWN))))
    given = {name: value for name, value in inputs.items() if value is not None}
    messages = parse_messages(given.get("messages"))
    tools = parse_tools(given.get("tools"))
    constraint = _constraint(given.get("constraint"))
    to_call = _tool_choice(given.get("tool_choice"), tools)
    if given.get("tool_choice") == "none":
        tools = ""
    warmth = _number(given, "temperature", temperature)
    if warmth < 0:
        raise ChatError(f"temperature must be 0 or more; got {warmth:g}")
    nucleus = _number(given, "top_p", top_p)
    if not 0 < nucleus <= 1:
        raise ChatError(f"top_p must be above 0 and at most 1; got {nucleus:g}")
    most = _whole(given, "max_tokens", max_tokens)
    if most is None or most < 1:
        raise ChatError(f"max_tokens must be 1 or more; got {most}")
    logprobs = given.get("logprobs", False)
    if not is_bool(logprobs):
        raise ChatError(f"logprobs must be true or false; got {logprobs!r}")
    # Logprobs change nothing of an answer but what is told of it.
    shown = {k: given[k] for k in KNOWN if k in given and k not in ("messages", "logprobs")}
    return ChatInputs(
        prompt=Prompt(messages, reserve=most, tools=tools),
        # Where a tool has to be called, there is no text that a constraint could be about.
        constraint=to_call or constraint,
        temperature=warmth,
        top_p=nucleus,
        max_tokens=most,
        stop=_stop(given.get("stop", stop)),
        logprobs=bool(logprobs),
        seed=_whole(given, "seed", None),
        canonical=canonical_json(
            {"messages": [_shown(message) for message in messages], **shown}, "a chat's inputs"
        ),
    )


def _shown(message: Message) -> dict[str, Any]:
    """A message without what is not shown to the model."""
    content = "".join(segment.text for segment in message.segments)
    shown: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        shown["tool_calls"] = [[c.id, c.name, c.arguments] for c in message.tool_calls]
    if message.tool_call_id is not None:
        shown["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        shown["name"] = message.name
    return shown


def _constraint(given: Any) -> Constraint | None:
    if given is None:
        return None
    kinds = [kind for kind in get_args(ConstraintKind) if kind != "tool_calls"]
    if not isinstance(given, Mapping) or given.get("kind") not in kinds:
        raise ChatError(
            f"constraint must be an object whose kind is one of {', '.join(kinds)}; got {given!r}"
        )
    kind, value = given["kind"], given.get("value")
    if kind in ("json_object", "text"):
        return Constraint(kind)
    if kind == "regex":
        if not isinstance(value, str):
            raise ChatError(f"the value of a regex constraint must be a text; got {value!r}")
        return Constraint(kind, value)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ChatError(f"the value of a {kind} constraint is no JSON: {error}") from None
    if kind == "choice":
        texts = isinstance(value, list) and all(isinstance(text, str) for text in value)
        if not texts or not value:
            raise ChatError(f"the value of a choice constraint must be texts; got {value!r}")
    return Constraint(kind, canonical_json(value, f"the value of a {kind} constraint"))


def _tool_choice(given: Any, tools: str) -> Constraint | None:
    """The constraint to call a tool; None where the model is free."""
    if given is None or given == "none" or given == "auto":
        return None
    names = [tool["function"]["name"] for tool in json.loads(tools or "[]")]
    if given == "required":
        if not names:
            raise ChatError("tool_choice is 'required', and the call has no tools")
        return Constraint("tool_calls", "null")
    function = given.get("function") if isinstance(given, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise ChatError(
            "tool_choice must be 'auto', 'none', 'required' or an object that names a function;"
            f" got {given!r}"
        )
    if name not in names:
        raise ChatError(str(unknown_name("tool in tool_choice", name, names)))
    return Constraint("tool_calls", json.dumps(name, ensure_ascii=False))


def _stop(given: Any) -> tuple[str, ...]:
    stops = (given,) if isinstance(given, str) else given
    if not isinstance(stops, (list, tuple)) or not all(isinstance(s, str) and s for s in stops):
        raise ChatError(
            f"stop must be a text or a list of texts, none of them empty; got {given!r}"
        )
    return tuple(stops)


def _number(given: Mapping[str, Any], name: str, default: float) -> float:
    value = given.get(name, default)
    try:
        if is_bool(value):
            raise ValueError(f"must be a number; got {value!r}")
        return real_number(value)
    except ValueError as error:
        raise ChatError(f"{name} {error}") from None


def _whole(given: Mapping[str, Any], name: str, default: int | None) -> int | None:
    value = given.get(name, default)
    if value is not None and (is_bool(value) or not isinstance(value, int)):
        raise ChatError(f"{name} must be a whole number; got {value!r}")
    return value
