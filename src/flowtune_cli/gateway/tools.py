"""Tools, the choice among them, and formats of the answer, as a chat node takes them."""

from __future__ import annotations

import json
import re
from typing import Any

from .errors import invalid, unsupported
from .fields import Fields

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def chat_tools(fields: Fields) -> list[dict[str, Any]]:
    """The tools of a chat request: functions."""
    tools = []
    for number, value in enumerate(fields.list("tools")):
        tool = Fields(value, f"{fields.name_of('tools')}[{number}]")
        _function_type(tool)
        tools.append(_tool(Fields(tool.required("function"), tool.name_of("function"))))
        tool.end()
    return tools


def flat_tools(fields: Fields) -> list[dict[str, Any]]:
    """The same of a request of responses, whose tools have no object of the function's own."""
    tools = []
    for number, value in enumerate(fields.list("tools")):
        tool = Fields(value, f"{fields.name_of('tools')}[{number}]")
        _function_type(tool)
        tools.append(_tool(tool))
    return tools


def _function_type(tool: Fields) -> None:
    kind = tool.required_text("type")
    if kind != "function":
        raise unsupported(tool.name_of("type"), f"tools are functions of the program, no '{kind}'")


def _tool(function: Fields) -> dict[str, Any]:
    name = function.required_text("name")
    if not _NAME.fullmatch(name):
        raise invalid(function.name_of("name"), f"must match {_NAME.pattern}, and is '{name}'")
    made: dict[str, Any] = {"name": name}
    description = function.text("description")
    if description is not None:
        made["description"] = description
    parameters = function.raw("parameters")
    if parameters is not None:
        if not isinstance(parameters, dict):
            raise invalid(function.name_of("parameters"), "must be a JSON schema: an object")
        made["parameters"] = parameters
    if function.flag("strict"):
        made["strict"] = True
    function.end()
    return {"type": "function", "function": made}


def held(
    fields: Fields, tools: list[dict[str, Any]], choice: Any, constraint: dict[str, str] | None
) -> dict[str, str] | None:
    """The constraint with what ``strict`` and ``parallel_tool_calls`` ask for.

    Under any constraint there is one tool call at most, and its arguments fit the schema. What is
    strict is told to the model no more.
    """
    parallel = fields.raw("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        raise invalid(fields.name_of("parallel_tool_calls"), "must be true or false")
    strict = [tool["function"].pop("strict", False) for tool in tools]
    if constraint is None and choice is None and tools and (any(strict) or parallel is False):
        return {"kind": "text", "value": ""}
    return constraint


def tool_choice(fields: Fields, tools: list[dict[str, Any]], *, flat: bool = False) -> Any:
    """The choice as a chat node takes it; None where it is left out.

    Args:
        flat: the name is beside the type, as requests of responses have it.
    """
    value = fields.raw("tool_choice")
    param = fields.name_of("tool_choice")
    if value is None:
        return None
    names = [tool["function"]["name"] for tool in tools]
    if isinstance(value, str):
        if value not in ("auto", "none", "required"):
            raise invalid(param, "must be 'auto', 'none', 'required' or a function")
        if not tools and value == "required":
            raise invalid(param, "there are no tools")
        # The others are what is done without it.
        return value if tools and value != "auto" else None
    choice = Fields(value, param)
    choice.one_of("type", ("function",), "choose 'auto', 'none', 'required' or one function")
    named = choice if flat else Fields(choice.required("function"), choice.name_of("function"))
    name = named.required_text("name")
    named.end()
    choice.end()
    if name not in names:
        raise invalid(named.name_of("name"), f"'{name}' is none of the tools")
    return {"type": "function", "function": {"name": name}}


def chat_constraint(fields: Fields) -> dict[str, str] | None:
    """What ``response_format`` (or vLLM's ``structured_outputs``) holds the answer to."""
    constraint = None
    value = fields.raw("response_format")
    if value is not None:
        form = Fields(value, fields.name_of("response_format"))
        kind = form.required_text("type")
        if kind == "json_schema":
            schema = Fields(form.required("json_schema"), form.name_of("json_schema"))
            constraint = _schema(schema)
        else:
            constraint = _plain_format(form, kind)
        form.end()
    structured = fields.raw("structured_outputs")
    if structured is None:
        return constraint
    if constraint is not None:
        raise invalid("structured_outputs", "'response_format' has another format already")
    return _structured(Fields(structured, "structured_outputs"))


def flat_constraint(fields: Fields) -> dict[str, str] | None:
    """The same of ``text.format`` in a request of responses."""
    value = fields.raw("format")
    if value is None:
        return None
    form = Fields(value, fields.name_of("format"))
    kind = form.required_text("type")
    if kind == "json_schema":
        return _schema(form)
    constraint = _plain_format(form, kind)
    form.end()
    return constraint


def _plain_format(form: Fields, kind: str) -> dict[str, str] | None:
    if kind not in ("text", "json_object"):
        raise unsupported(
            form.name_of("type"), f"must be text, json_object or json_schema, and is '{kind}'"
        )
    return None if kind == "text" else {"kind": "json_object", "value": ""}


def _schema(fields: Fields) -> dict[str, str]:
    fields.required_text("name")
    schema = fields.required("schema")
    if not isinstance(schema, dict):
        raise invalid(fields.name_of("schema"), "must be a JSON schema: an object")
    # Answers are always held to the schema, strict or not.
    fields.flag("strict")
    fields.nothing_but({"description": ((), "the model is not shown it; say it in a message")})
    fields.end()
    return {"kind": "json_schema", "value": _compact(schema)}


def _structured(fields: Fields) -> dict[str, str]:
    found: list[dict[str, str]] = []
    regex = fields.text("regex")
    if regex is not None:
        found.append({"kind": "regex", "value": regex})
    choice = fields.list("choice")
    if choice:
        if not all(isinstance(each, str) for each in choice):
            raise invalid(fields.name_of("choice"), "must be an array of texts")
        found.append({"kind": "choice", "value": json.dumps(choice)})
    schema = fields.raw("json")
    if schema is not None:
        if not isinstance(schema, dict):
            raise invalid(fields.name_of("json"), "must be a JSON schema: an object")
        found.append({"kind": "json_schema", "value": _compact(schema)})
    fields.end()
    if len(found) != 1:
        raise invalid(fields.place, "must have one of 'regex', 'choice' and 'json'")
    return found[0]


def _compact(schema: dict[str, Any]) -> str:
    # In the order in which it came: answers have their keys in it.
    return json.dumps(schema, separators=(",", ":"))
