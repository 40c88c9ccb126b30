"""The options of a class or function: types, defaults and help, as their author wrote them."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Any, Union, get_args, get_origin, get_type_hints

_ARGUMENT = re.compile(r"( *)([a-z_][a-z_0-9, ]*): (.*)")
_REQUIRED = object()


@dataclass(frozen=True)
class Option:
    """One option, all of it as texts; a default of "" is none."""

    name: str
    type: str
    default: str
    help: str


def summary(thing: Any) -> str:
    """The first line of a thing's own documentation."""
    text = inspect.cleandoc(getattr(thing, "__doc__", None) or "")
    # A dataclass without a docstring is given its signature as one.
    return "" if text.startswith(f"{thing.__name__}(") else text.partition("\n")[0]


def options(thing: Any) -> list[Option]:
    """The options of a class, a pydantic model or a function (whose first argument is none)."""
    from ..config import schema as config_schema
    from ..config import settings as config_settings
    from ..config import template as config_template

    def shown(default: Any) -> str:
        if default is _REQUIRED:
            return ""
        record = dataclasses.is_dataclass(default) and not isinstance(default, type)
        return config_template.toml_value(dataclasses.asdict(default) if record else default)

    if hasattr(thing, "model_fields"):
        tables = config_settings.subsections(thing)
        return [
            Option(
                name,
                type_text(field.annotation),
                "" if field.is_required() else shown(field.get_default(call_default_factory=True)),
                field.description or "",
            )
            for name, field in thing.model_fields.items()
            if name not in tables
        ]
    helps = argument_help(thing)
    if isinstance(thing, type) and dataclasses.is_dataclass(thing):
        types = config_schema.field_types(thing)
        return [
            Option(f.name, type_text(types[f.name]), shown(_default(f)), helps.get(f.name, ""))
            for f in dataclasses.fields(thing)
            if f.init
        ]
    parameters = list(signature(thing).parameters.values())
    return [
        Option(
            parameter.name,
            "" if parameter.annotation is parameter.empty else type_text(parameter.annotation),
            shown(_REQUIRED if parameter.default is parameter.empty else parameter.default),
            helps.get(parameter.name, ""),
        )
        for parameter in (parameters if isinstance(thing, type) else parameters[1:])
    ]


def signature(function: Any) -> inspect.Signature:
    """The signature of a function, with its types where they are there at run time."""
    from ..config.schema import argument_types

    with contextlib.suppress(NameError):
        return inspect.signature(function, eval_str=True)
    found, types = inspect.signature(function), argument_types(function)
    parameters = [
        each if types[name] is Any else each.replace(annotation=types[name])
        for name, each in found.parameters.items()
    ]
    return found.replace(parameters=parameters)


def argument_help(thing: Any) -> dict[str, str]:
    """The help of each argument, from the lines below 'Args:' in the docstrings.

    A class has its bases' help too; ``a, b: text`` is about both.
    """
    helps: dict[str, str] = {}
    for owner in reversed(thing.__mro__ if isinstance(thing, type) else [thing]):
        for names, text in _arguments(inspect.cleandoc(owner.__doc__ or "")):
            helps.update(dict.fromkeys(names, text))
    return helps


def type_text(annotation: Any) -> str:
    """A type as a person reads it."""
    if get_origin(annotation) is Union and NoneType not in get_args(annotation):
        return " | ".join(type_text(each) for each in get_args(annotation))
    if not isinstance(annotation, str):
        with contextlib.suppress(NameError, TypeError):  # of what is in it
            # Without the bounds of values.
            annotation = get_type_hints(type("", (), {"__annotations__": {"it": annotation}}))["it"]
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)
    return re.sub(r"Literal\[([^\]]*)\]", lambda m: m[1].replace(", ", " | "), text)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return _REQUIRED if field.default is dataclasses.MISSING else field.default


def _arguments(docstring: str) -> Iterator[tuple[list[str], str]]:
    """The entries below 'Args:', each with the lines that are indented deeper."""
    _, found, section = docstring.partition("\nArgs:\n")
    names: list[str] = []
    words: list[str] = []
    for line in section.splitlines() if found else []:
        if line and not line.startswith(" "):
            break
        entry = _ARGUMENT.fullmatch(line)
        if entry and len(entry[1]) == 4:
            if names:
                yield names, " ".join(words)
            names, words = [name.strip() for name in entry[2].split(",")], [entry[3]]
        else:
            words += line.split()
    if names:
        yield names, " ".join(words)
