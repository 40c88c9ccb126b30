"""Tool calls whose arguments stand between tags, one by one, as Qwen3-Coder and GLM write them.

A tag holds a text as it is, and JSON for all else: only the tool's schema tells which it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..flow.errors import UsageError
from ..flow.prompt import ToolCall
from .grammar_text import Literals, json_rule, without

OPEN, CLOSE = "<tool_call>", "</tool_call>"
Schema = Mapping[str, Any]
XmlFamily = Literal["qwen3-coder", "glm"]

_CONSTANTS = {"True": True, "False": False, "None": None}
"""As Python writes them, which templates do."""
_ANNOTATIONS = ("title", "description", "default", "examples")
_PLAIN = {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}
_PLAIN |= {"$schema", *_ANNOTATIONS}


@dataclass(frozen=True)
class Form:
    """What a family writes between the tags of a call.

    Args:
        before, after: the function's name.
        key, value, end: before an argument's name, before its value, and behind it.
        last: behind all arguments.
        call: matches a call; its groups are the name and the arguments.
        argument: matches an argument; its groups are the name and the value.
    """

    before: str
    after: str
    key: str
    value: str
    end: str
    last: str
    call: re.Pattern[str]
    argument: re.Pattern[str]


FORMS: dict[XmlFamily, Form] = {
    "qwen3-coder": Form(
        before="\n<function=",
        after=">\n",
        key="<parameter=",
        value=">\n",
        end="\n</parameter>\n",
        last="</function>\n",
        call=re.compile(r"\s*<function=([^<>\n]+)>(.*)</function>\s*", re.DOTALL),
        argument=re.compile(r"\s*<parameter=([^<>\n]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL),
    ),
    "glm": Form(
        before="",
        after="\n",
        key="<arg_key>",
        value="</arg_key>\n<arg_value>",
        end="</arg_value>\n",
        last="",
        call=re.compile(r"\s*([^<>\s]+)\s*(<arg_key>.*)?", re.DOTALL),
        argument=re.compile(
            r"\s*<arg_key>\s*([^<>\n]+?)\s*</arg_key>\s*<arg_value>(.*?)</arg_value>\s*", re.DOTALL
        ),
    ),
}


def parse_xml(
    family: XmlFamily, text: str, tools: Mapping[str, Schema]
) -> tuple[str, list[ToolCall]] | None:
    """The text beside the calls, and the calls; None where one is not well-formed.

    Args:
        tools: the schema of each tool's parameters, by name.
    """
    form = FORMS[family]
    rest, *parts = text.split(OPEN)
    calls = []
    for part in parts:
        # A value may spell the end out.
        body, closed, behind = part.rpartition(CLOSE)
        found = form.call.fullmatch(body)
        if not closed or found is None:
            return None
        name, written = found.groups()
        arguments = _arguments(form, written or "", tools.get(name, {}))
        if arguments is None:
            return None
        calls.append(ToolCall("", name, json.dumps(arguments, ensure_ascii=False)))
        rest += behind
    return rest.strip(), calls


def _arguments(form: Form, written: str, schema: Schema) -> dict[str, Any] | None:
    properties = schema.get("properties", {})
    arguments: dict[str, Any] = {}
    place = 0
    while written[place:].strip():
        found = form.argument.match(written, place)
        if found is None:
            return None
        key, value = found.groups()
        arguments[key] = typed(value, properties.get(key, {}), schema)
        place = found.end()
    return arguments


def typed(text: str, schema: Any, root: Schema) -> Any:
    """The value that a text between tags stands for, by its schema; what fits none is a text."""
    schema = _resolved(schema, root)
    for choice in _choices(schema) or ():
        if text == _shown(choice):
            return choice
    types = _types(schema, root)
    if "string" in types:
        return None if "null" in types and text in ("null", "None") else text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _CONSTANTS.get(text, text)


def xml_grammar(
    family: XmlFamily,
    function: Mapping[str, Any],
    name: str,
    literals: Literals,
) -> list[str]:
    """The rules of what stands between the tags of a function's calls, as a Lark grammar.

    Args:
        name: of the first rule; the others begin with it.
        literals: of the tokenizer.

    Raises:
        UsageError: the schema asks for more than can be held to between tags.
    """
    form = FORMS[family]
    schema = function.get("parameters") or {"type": "object"}
    _check(function["name"], schema)
    required = schema.get("required") or ()
    properties: dict[str, Any] = {key: {} for key in required}
    properties |= schema.get("properties") or {}
    parts, rules = [literals.text(f"{form.before}{function['name']}{form.after}")], []
    for number, (key, value) in enumerate(properties.items()):
        if re.search(r"[<>\n]", key):
            raise _refused(function["name"], f"the name '{key}' cannot stand in a tag")
        argument = f"{name}_{number}"
        parts.append(argument if key in required else f"{argument}?")
        begin = literals.text(f"{form.key}{key}{form.value}")
        ended, made = _value(f"{argument}_v", value, schema, form.end, literals, function["name"])
        rules += [f"{argument}: {begin} {ended}", *made]
    if form.last:
        parts.append(literals.text(form.last))
    return [f"{name}: {' '.join(parts)}", *rules]


def _value(
    name: str,
    value: Any,
    root: Schema,
    end: str,
    literals: Literals,
    function: str,
) -> tuple[str, list[str]]:
    """A value with what ends it, and the rules that this needs."""
    schema = _resolved(value, root)
    choices = _choices(schema)
    if choices is not None:
        shown = " | ".join(literals.text(_shown(choice)) for choice in choices)
        return f"({shown}) {literals.text(end)}", []
    types = _types(schema, root)
    if types and "string" not in types:
        made = {**schema, **{key: root[key] for key in ("$defs", "definitions") if key in root}}
        return f"{name} {literals.text(end)}", [json_rule(name, made)]
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    known = {"type", "minLength", "maxLength", *_ANNOTATIONS}
    union = schema.keys() & {"anyOf", "oneOf"}
    extra = sorted(schema.keys() - known - union)
    members = [_resolved(each, root) for key in union for each in schema[key]]
    extra += sorted({key for m in members if m.get("type") == "string" for key in m} - known)
    if extra:
        raise _refused(function, f"'{extra[0]}' of a text")
    text = f"(/(?s:.){{{least},{most}}}/ & {without(end.strip())})"
    ended = literals.text(end)
    terminal = name.upper()
    # One terminal with the letters behind it, as these may be a text's own. No terminal holds a
    # special token.
    letters, special, rest = ended.partition("<[")
    return f"{terminal} {special}{rest}".rstrip(), [f"{terminal}: {text} {letters}".rstrip()]


def _check(function: str, schema: Any) -> None:
    plain = isinstance(schema, Mapping) and schema.get("type", "object") == "object"
    more = sorted(schema.keys() - _PLAIN) if plain else ["its type"]
    if more:
        raise _refused(function, f"'{more[0]}' of all arguments together")


def _refused(function: str, what: str) -> UsageError:
    return UsageError(
        f"this model writes arguments of tools between tags, and the schema of '{function}' cannot"
        f" be held to there: {what}. Leave it out of the schema, or do not ask for 'strict' or for"
        " a call"
    )


def _resolved(schema: Any, root: Schema) -> dict[str, Any]:
    """A schema, or the one that it refers to."""
    for _ in range(9):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            break
        schema = root
        for part in reference[2:].split("/"):
            schema = schema.get(part, {}) if isinstance(schema, Mapping) else {}
    return dict(schema) if isinstance(schema, Mapping) else {}


def _choices(schema: Schema) -> Sequence[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    found = schema.get("enum")
    return found if isinstance(found, list) else None


def _types(schema: Schema, root: Schema, depth: int = 9) -> set[str]:
    """The types that a value may have; none where the schema does not say."""
    named = schema.get("type")
    if named is not None:
        return {named} if isinstance(named, str) else set(named)
    members = [each for key in ("anyOf", "oneOf") for each in schema.get(key, ())]
    found = [_types(_resolved(each, root), root, depth - 1) for each in members if depth]
    return set().union(*found) if all(found) else set()


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
