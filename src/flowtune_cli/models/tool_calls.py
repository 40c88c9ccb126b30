"""Tool calls in what a model wrote, in the form of its family.

The form is that of the tokenizer's own response template, where it has one, or else is told by the
chat template:

- Hermes (Qwen, SmolLM and more): ``<tool_call>{"name": ..., "arguments": ...}</tool_call>``
- Llama 3: ``{"name": ..., "parameters": ...}`` alone, maybe behind ``<|python_tag|>``
- Mistral: ``[TOOL_CALLS][{"name": ..., "arguments": ...}]``, or ``[TOOL_CALLS]name[ARGS]{...}``
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ..flow.prompt import ToolCall

Family = Literal["hermes", "llama3", "mistral"]

PYTHON_TAG, TOOL_CALLS, ARGS = "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]"
_HERMES = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


JSON_LAYOUT = {"whitespace_pattern": r" |\n {0,24}"}
"""Between the parts of constrained JSON: a space, or a line break with an indent. Where any white
space is allowed, a weak model writes it to no end."""


class Parsed(NamedTuple):
    """What a model wrote.

    Args:
        text: the rest, in which there may be special tokens.
        calls: the tool calls, one or more, without ids.
    """

    text: str
    calls: tuple[ToolCall, ...]


def family_of(template: str) -> Family | None:
    """The family whose form of tool calls a chat template writes; None if it is none of these."""
    if TOOL_CALLS in template:
        return "mistral"
    # Others that write so put XML, not JSON, inside.
    if "<tool_call>" in template and "<function=" not in template and "<arg_key>" not in template:
        return "hermes"
    if PYTHON_TAG in template or ("ipython" in template and "parameters" in template):
        return "llama3"
    return None


class ToolCallParser:
    """Finds tool calls.

    Args:
        tokenizer: of transformers.
        template: the source of its chat template; empty if there is none.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        self._tokenizer = tokenizer
        self._by_template = bool(getattr(tokenizer, "response_template", None))
        self.family = family_of(template)

    def parse(self, text: str, tools: str, prompt: Callable[[], str]) -> Parsed | None:
        """The tool calls in a text; None if there are none, or they are not well-formed.

        Args:
            text: an output without its end, special tokens kept.
            tools: those of the prompt, as JSON text.
            prompt: gives the prompt's text.
        """
        if self._by_template:
            return self._own(text, json.loads(tools), prompt())
        if self.family is None:
            return None
        return FAMILIES[self.family](text, [tool["function"]["name"] for tool in json.loads(tools)])

    def _own(self, text: str, tools: list[Any], prompt: str) -> Parsed | None:
        try:
            found = self._tokenizer.parse_response(text, prefix=prompt, tools=tools)
            calls = [_call(call["function"]) for call in found.get("tool_calls") or []]
        except Exception:  # whatever a template makes of a text that it does not fit
            return None
        return _parsed(str(found.get("content") or ""), calls)


def parse_hermes(text: str, names: Sequence[str]) -> Parsed | None:
    """Each object between the tags; a list of objects is taken, too."""
    found = [list(_json_values(body.strip())) for body in _HERMES.findall(text)]
    if not all(len(values) == 1 for values in found):
        return None
    values = [
        each for (value,) in found for each in (value if isinstance(value, list) else [value])
    ]
    rest = _HERMES.sub("", text)
    return None if "<tool_call>" in rest else _parsed(rest.strip(), map(_call, values))


def parse_llama3(text: str, names: Sequence[str]) -> Parsed | None:
    """A text that is nothing but calls, with semicolons between; untagged, of known tools."""
    before, tag, written = text.rpartition(PYTHON_TAG)
    values = list(_json_values(written.strip(), separator=";"))
    calls = [_call(value) for value in values]
    if not tag and not all(call is not None and call.name in names for call in calls):
        return None
    return _parsed(before.strip(), calls)


def parse_mistral(text: str, names: Sequence[str]) -> Parsed | None:
    """A list of calls behind the token, or each call behind one of its own."""
    before, *parts = text.split(TOOL_CALLS)
    values: list[Any] = []
    for part in parts:
        name, args, arguments = part.partition(ARGS)
        if not args:
            found = re.match(r"\s*([\w.-]+)\s*(\{.*)", part, re.DOTALL)
            name, arguments = found.groups() if found else ("", part)
        (value,) = list(_json_values(arguments.strip())) or [None]
        if name:
            values.append({"name": name.strip(), "arguments": value})
        else:
            values += value if isinstance(value, list) else [value]
    return _parsed(before.strip(), map(_call, values))


FAMILIES: dict[Family, Callable[[str, Sequence[str]], Parsed | None]] = {
    "hermes": parse_hermes,
    "llama3": parse_llama3,
    "mistral": parse_mistral,
}


def _parsed(text: str, calls: Any) -> Parsed | None:
    """None unless all calls are well-formed, and there is one."""
    found = list(calls)
    return Parsed(text, tuple(found)) if found and None not in found else None


def _call(value: Any) -> ToolCall | None:
    if not isinstance(value, dict):
        return None
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        (arguments,) = list(_json_values(arguments)) or [None]
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return ToolCall("", name, json.dumps(arguments, ensure_ascii=False))


def _json_values(text: str, separator: str = "") -> Iterator[Any]:
    """The JSON values that a text consists of, one or several between separators; none if not."""
    decoder = json.JSONDecoder(strict=False)  # models write line breaks inside texts
    values = []
    place = 0
    while True:
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return
        values.append(value)
        rest = text[place:].lstrip()
        if not rest:
            break
        if not separator or not rest.startswith(separator):
            return
        place = len(text) - len(rest[1:].lstrip())
    yield from values


def tool_call_grammar(
    tokenizer: Any, template: str, functions: Sequence[Mapping[str, Any]], start: str
) -> str | None:
    """What a family writes for a call of one of these functions, as a Lark grammar.

    Args:
        start: the name of the rule of all of it.

    Returns:
        None if the family is not known.
    """
    family = None if getattr(tokenizer, "response_template", None) else family_of(template)
    if family is None:
        return None
    named = family == "mistral" and ARGS in template
    key = "parameters" if family == "llama3" else "arguments"
    rules = []
    for number, function in enumerate(functions):
        arguments = function.get("parameters") or {"type": "object"}
        if named:
            name = json.dumps(function["name"], ensure_ascii=False)
            rules.append(f"c{number}: {name} {_mark(tokenizer, ARGS)} a{number}")
            rules.append(f"a{number}: %json {json.dumps({**arguments, 'x-guidance': JSON_LAYOUT})}")
            continue
        call = {
            "type": "object",
            "properties": {"name": {"const": function["name"]}, key: arguments},
            "required": ["name", key],
            "additionalProperties": False,
            "x-guidance": JSON_LAYOUT,
        }
        rules.append(f"c{number}: %json {json.dumps(call)}")
    calls = " | ".join(f"c{number}" for number in range(len(functions)))
    opening = _mark(tokenizer, TOOL_CALLS)
    body = {
        "hermes": r'"<tool_call>" "\n" call "\n" "</tool_call>"',
        "llama3": "call",
        "mistral": f"{opening} call" if named else f'{opening} "[" call "]"',
    }[family]
    for text in ("<tool_call>", "</tool_call>"):
        body = body.replace(f'"{text}"', _mark(tokenizer, text))
    return "\n".join([f"{start}: {body}", f"call: {calls}", *rules])


def opening(tokenizer: Any, template: str) -> str | None:
    """The letters that begin a family's tool calls; None if a call begins like other text."""
    if getattr(tokenizer, "response_template", None):
        return None
    return {"hermes": "<tool_call>", "mistral": TOOL_CALLS}.get(family_of(template) or "")


def _mark(tokenizer: Any, text: str) -> str:
    """A mark of a family in a grammar: the special token, or else its letters."""
    for index, token in tokenizer.added_tokens_decoder.items():
        if token.content == text and token.special:
            return f"<[{index}]>"
    return json.dumps(text)
