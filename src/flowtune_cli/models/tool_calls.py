"""Tool calls in what a model wrote, in the form of its family.

The form is that of the tokenizer's own response template, where it has one, or else is told by the
chat template:

- Hermes (Qwen, SmolLM and more): ``<tool_call>{"name": ..., "arguments": ...}</tool_call>``
- Llama 3: ``{"name": ..., "parameters": ...}`` alone, maybe behind ``<|python_tag|>``
- Mistral: ``[TOOL_CALLS][{"name": ..., "arguments": ...}]``, or ``[TOOL_CALLS]name[ARGS]{...}``
- Qwen3-Coder and GLM: arguments between tags, see ``xml_tool_calls``
- DeepSeek: between special tokens, see ``deepseek_tool_calls``
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from ..flow.prompt import ToolCall
from . import deepseek_tool_calls as deepseek
from .grammar_text import Literals, json_rule
from .xml_tool_calls import CLOSE, OPEN, XmlFamily, parse_xml, xml_grammar

Family = Literal["hermes", "llama3", "mistral", "qwen3-coder", "glm", "deepseek"]
Tools = Mapping[str, Mapping[str, Any]]
"""The JSON schema of each tool's parameters, by the tool's name."""

PYTHON_TAG, TOOL_CALLS, ARGS = "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]"
_HERMES = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


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
    if deepseek.CALLS_BEGIN in template:
        return "deepseek"
    if OPEN in template:
        if "<function=" in template:
            return "qwen3-coder"
        return "glm" if "<arg_key>" in template else "hermes"
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
        return FAMILIES[self.family](text, schemas(json.loads(tools)))

    def _own(self, text: str, tools: list[Any], prompt: str) -> Parsed | None:
        try:
            found = self._tokenizer.parse_response(text, prefix=prompt, tools=tools)
            calls = [_call(call["function"]) for call in found.get("tool_calls") or []]
        except Exception:  # whatever a template makes of a text that it does not fit
            return None
        return _parsed(str(found.get("content") or ""), calls)


def parse_hermes(text: str, tools: Tools) -> Parsed | None:
    """Each object between the tags; a list of objects is taken, too."""
    found = [list(_json_values(body.strip())) for body in _HERMES.findall(text)]
    if not all(len(values) == 1 for values in found):
        return None
    values = [
        each for (value,) in found for each in (value if isinstance(value, list) else [value])
    ]
    rest = _HERMES.sub("", text)
    return None if "<tool_call>" in rest else _parsed(rest.strip(), map(_call, values))


def parse_llama3(text: str, tools: Tools) -> Parsed | None:
    """A text that is nothing but calls, with semicolons between; untagged, of known tools."""
    before, tag, written = text.rpartition(PYTHON_TAG)
    values = list(_json_values(written.strip(), separator=";"))
    calls = [_call(value) for value in values]
    if not tag and not all(call is not None and call.name in tools for call in calls):
        return None
    return _parsed(before.strip(), calls)


def parse_mistral(text: str, tools: Tools) -> Parsed | None:
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


def schemas(tools: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The schema of each tool's parameters, by the tool's name."""
    functions = (tool["function"] for tool in tools)
    return {function["name"]: function.get("parameters") or {} for function in functions}


def _parse_xml(family: XmlFamily, text: str, tools: Tools) -> Parsed | None:
    found = parse_xml(family, text, tools)
    return found and _parsed(*found)


def _parse_deepseek(text: str, tools: Tools) -> Parsed | None:
    found = deepseek.parse_deepseek(text)
    if found is None:
        return None
    before, calls = found
    return _parsed(before, (_call({"name": n, "arguments": value}) for n, value in calls))


FAMILIES: dict[Family, Callable[[str, Tools], Parsed | None]] = {
    "hermes": parse_hermes,
    "llama3": parse_llama3,
    "mistral": parse_mistral,
    "qwen3-coder": partial(_parse_xml, "qwen3-coder"),
    "glm": partial(_parse_xml, "glm"),
    "deepseek": _parse_deepseek,
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


@dataclass(frozen=True)
class CallGrammar:
    """What a family writes for a call, as rules of a Lark grammar.

    Args:
        opening: the letters that every call begins with; empty if it begins like other text.
        special: they are a special token.
        rules: ``call`` is all of it, and ``behind`` what follows the opening.
    """

    opening: str
    special: bool
    rules: str


def tool_call_grammar(
    tokenizer: Any, template: str, functions: Sequence[Mapping[str, Any]]
) -> CallGrammar | None:
    """What a family writes for a call of one of these functions; None if it is not known.

    Raises:
        UsageError: the family cannot hold to the schema of one of them.
    """
    family = None if getattr(tokenizer, "response_template", None) else family_of(template)
    if family is None:
        return None
    literals = Literals(tokenizer)
    rules: list[str] = []
    for number, function in enumerate(functions):
        rules += _call_rules(family, template, function, f"c{number}", literals)
    calls = " | ".join(f"c{number}" for number in range(len(functions)))
    opening, before, after = _around(family, template)
    behind = [f"({calls})", literals.text(after)]
    if opening:
        behind.insert(0, literals.text(before))
    begin = literals.text(opening)
    rules = [f"call: {begin} behind", f"behind: {' '.join(filter(None, behind))}", *rules]
    return CallGrammar(opening, literals.is_special(opening), "\n".join(rules))


def _around(family: Family, template: str) -> tuple[str, str, str]:
    """What every call begins with, what follows that, and what is behind the call."""
    if family == "hermes":
        return OPEN, "\n", f"\n{CLOSE}"
    if family == "mistral":
        return (TOOL_CALLS, "", "") if ARGS in template else (TOOL_CALLS, "[", "]")
    if family == "deepseek":
        return deepseek.CALLS_BEGIN, "", deepseek.CALLS_END
    return ("", "", "") if family == "llama3" else (OPEN, "", CLOSE)


def _call_rules(
    family: Family, template: str, function: Mapping[str, Any], rule: str, literals: Literals
) -> list[str]:
    """The rules of one function's calls, without what is around every call."""
    arguments = function.get("parameters") or {"type": "object"}
    if family == "qwen3-coder" or family == "glm":
        return xml_grammar(family, function, rule, literals)
    if family == "deepseek":
        before, after = deepseek.deepseek_call(template, function["name"])
    elif family == "mistral" and ARGS in template:
        before, after = f"{function['name']}{ARGS}", ""
    else:
        key = "parameters" if family == "llama3" else "arguments"
        call = {
            "type": "object",
            "properties": {"name": {"const": function["name"]}, key: arguments},
            "required": ["name", key],
            "additionalProperties": False,
        }
        return [json_rule(rule, call)]
    parts = [literals.text(before), f"{rule}_a", literals.text(after)]
    return [f"{rule}: {' '.join(filter(None, parts))}", json_rule(f"{rule}_a", arguments)]
