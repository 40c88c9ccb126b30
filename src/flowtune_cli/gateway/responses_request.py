"""Requests of /responses, without anything that would have to be kept between them."""

from __future__ import annotations

from typing import Any

from .errors import invalid, unsupported
from .fields import Fields
from .messages import chat_messages, text_content
from .requests import NODE_IS_ONE, Asked, check_labels, put_sampling
from .tools import flat_constraint, flat_tools, held, tool_choice

_STATELESS = "nothing is kept between requests: send the whole conversation as 'input'"
_LOGPROBS = "message.output_text.logprobs"
_REFUSED = {
    "previous_response_id": ((), _STATELESS),
    "conversation": ((), _STATELESS),
    "store": ((False,), _STATELESS),
    "prompt": ((), "prompts are not kept: send the text"),
    "background": ((False,), "requests are answered at once"),
    "context_management": (([],), "shorten the input yourself"),
    "max_tool_calls": ((), "the program calls the tools"),
    "moderation": ((), "there is no moderation"),
    "n": ((1,), NODE_IS_ONE),
    "reasoning": (({},), "how long a model thinks cannot be set"),
    "service_tier": (("auto", "default"), "there are no tiers"),
    "top_logprobs": ((0,), "only the log-probabilities of the answer's own tokens are known"),
    "truncation": (("disabled",), "shorten the input yourself"),
}


def responses_request(body: Any) -> Asked:
    """A request of /responses."""
    fields = Fields(body)
    model = fields.required_text("model")
    instructions = fields.text("instructions")
    messages = _messages(fields.required("input"))
    if instructions is not None:
        messages.insert(0, {"role": "system", "content": instructions})
    inputs: dict[str, Any] = {"messages": messages}
    shown: dict[str, Any] = {"instructions": instructions, "tools": body.get("tools") or []}
    shown["tool_choice"] = body.get("tool_choice") or "auto"
    tools = flat_tools(fields)
    choice = tool_choice(fields, tools, flat=True)
    text = fields.raw("text")
    constraint = None
    if text is not None:
        form = Fields(text, "text")
        shown["text"] = {"format": text.get("format") or {"type": "text"}}
        constraint = flat_constraint(form)
        form.nothing_but({"verbosity": ((), "say it in a message")})
        form.end()
    constraint = held(fields, tools, choice, constraint)
    put_sampling(inputs, fields)
    given = {
        "tools": tools or None,
        "tool_choice": choice,
        "constraint": constraint,
        "max_tokens": fields.integer("max_output_tokens", 1),
        "logprobs": _wants_logprobs(fields) or None,
    }
    inputs.update({name: value for name, value in given.items() if value is not None})
    stream = fields.flag("stream")
    options = fields.raw("stream_options")
    if options is not None:
        inner = Fields(options, "stream_options")
        inner.flag("include_obfuscation")
        inner.end()
    check_labels(fields)
    shown["metadata"] = body.get("metadata") or {}
    shown["parallel_tool_calls"] = body.get("parallel_tool_calls") is not False
    for name in ("temperature", "top_p", "max_output_tokens"):
        shown[name] = body.get(name)
    fields.nothing_but(_REFUSED)
    fields.end()
    return Asked(model, inputs, stream, shown=shown)


def _wants_logprobs(fields: Fields) -> bool:
    wanted = fields.list("include")
    for each in wanted:
        # Reasoning is not encrypted, as there is none; clients that keep nothing ask for it.
        if each not in (_LOGPROBS, "reasoning.encrypted_content"):
            raise unsupported("include", f"{each!r} is not known here")
    return _LOGPROBS in wanted


def _messages(value: Any) -> list[dict[str, Any]]:
    """The items of an input as chat messages."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise invalid("input", "must be a text or an array of items")
    messages: list[dict[str, Any]] = []
    for number, each in enumerate(value):
        item = Fields(each, f"input[{number}]")
        kind = item.text("type") or "message"
        item.label("id")
        item.label("status")
        if kind == "message":
            messages.append(_message(item))
        elif kind == "function_call":
            _add_call(messages, item)
        elif kind == "function_call_output":
            messages.append(_output(item))
        else:
            raise unsupported(
                item.name_of("type"),
                f"must be message, function_call or function_call_output, and is '{kind}'",
            )
        item.end()
    return chat_messages(messages, "input")


def _message(item: Fields) -> dict[str, Any]:
    role = item.required_text("role")
    if role not in ("system", "developer", "user", "assistant"):
        raise unsupported(
            item.name_of("role"),
            f"must be system, developer, user or assistant, and is '{role}'",
        )
    kinds = ("output_text",) if role == "assistant" else ("input_text",)
    content = text_content(item, item.required("content"), kinds)
    # An assistant's message is sent back with these.
    item.nothing_but({"phase": (("final_answer",), "it is not known to the model")})
    return {"role": role, "content": content}


def _add_call(messages: list[dict[str, Any]], item: Fields) -> None:
    call = {
        "id": item.required_text("call_id"),
        "type": "function",
        "function": {
            "name": item.required_text("name"),
            "arguments": item.required_text("arguments"),
        },
    }
    item.raw("parsed_arguments")  # the client's own
    # An answer's text and its calls are items of their own, and one message of the chat.
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})


def _output(item: Fields) -> dict[str, Any]:
    output = item.required("output")
    place = Fields({}, item.name_of("output"))
    return {
        "role": "tool",
        "tool_call_id": item.required_text("call_id"),
        "content": text_content(place, output, ("input_text",)),
    }
