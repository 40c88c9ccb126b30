"""Which settings there are, and whether a value fits its type.

The kind of a table is a pydantic model, a dataclass, or a mapping of names to kinds; any other kind
is the type of a single value. ``Any`` is what nothing is known of: a value or a table.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from ..flow.errors import UsageError
from .layers import Key

_CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
_MESSAGES = {
    "missing": "must be set",
    "extra_forbidden": "is not a setting",
    "unexpected_keyword_argument": "is not a setting",
    "needs_python_object": "cannot be set: only Python has such values",
}
_SHOULD = "Input should be "

Problems = Mapping[Key, str]
"""What is wrong with a value, by the place in it; ``()`` is the value itself."""


def fields_of(kind: Any) -> Mapping[str, Any] | None:
    """The settings in a table, each with its kind; None for the type of a single value.

    A table is merged key by key with those of other layers. A single value is replaced as a whole,
    even if it is a mapping.
    """
    if isinstance(kind := without_none(kind), Mapping):
        return kind
    if isinstance(kind, type) and get_origin(kind) is None:
        if issubclass(kind, BaseModel):
            return {field.alias or n: field.annotation for n, field in kind.model_fields.items()}
        if dataclasses.is_dataclass(kind):
            return field_types(kind)
    return None


def is_open(kind: Any) -> bool:
    """Whether a table may have settings that ``fields_of`` does not name."""
    kind = without_none(kind)
    is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
    return kind is Any or (is_model and kind.model_config.get("extra") == "allow")


def check(table: Any, name: str, value: Any) -> tuple[Any, Problems]:
    """A setting's value as its table takes it, and what is wrong with it.

    Types are strict and TOML's: an array for a tuple, a string for a path, no number for a string.
    """
    infinite = dict(not_finite(value))
    if infinite:
        return value, infinite
    try:
        if isinstance(table, type) and issubclass(table, BaseModel):
            # The model converts it when it is made. What it says of other fields waits until then.
            field: Any = name
            table.model_validate_json(_json({name: value}), strict=True)
            return value, {}
        field, kind = 0, (fields_of(table) or {})[name]
        # In a list, since a TypedDict by itself would not take the configuration.
        listed: Any = list.__class_getitem__(kind)
        adapter = TypeAdapter[Any](listed, config=_CONFIG)
        return adapter.validate_json(_json([value]), strict=True)[0], {}
    except PydanticUserError:
        return value, {(): _MESSAGES["needs_python_object"]}
    except ValidationError as error:
        problems = explain(error, {field: value})
        return value, {
            place[1:]: text for place, text in problems.items() if place[0] == str(field)
        }


def not_finite(value: Any, place: Key = ()) -> Iterator[tuple[Key, str]]:
    """What is wrong with the numbers in a value that no calculation can use, by their places."""
    if isinstance(value, Mapping):
        for name, inside in value.items():
            yield from not_finite(inside, (*place, str(name)))
    elif isinstance(value, (list, tuple)):
        for number, inside in enumerate(value):
            yield from not_finite(inside, (*place, str(number)))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from not_finite(getattr(value, field.name), (*place, field.name))
    elif isinstance(value, float) and not math.isfinite(value):
        yield place, f"should be finite, not {value}"
    elif isinstance(value, int) and abs(value) > sys.float_info.max:
        yield place, "is too large a number"


def _json(value: Any) -> str:
    return json.dumps(value, default=str)


def build(kind: type, current: Any, changes: Mapping[str, Any]) -> Any:
    """A dataclass instance with checked values in place of ``current``'s own.

    Raises:
        FlowtuneError, ValueError, TypeError: the class refuses them.
    """
    values, fields = dict(changes), field_types(kind)
    for name, value in changes.items():
        if value is not None and fields_of(fields[name]) is not None:
            values[name] = build(without_none(fields[name]), getattr(current, name, None), value)
    if current is None:
        return kind(**values)
    return dataclasses.replace(current, **values) if values else current


def setting_keys(kind: Any, value: Any, key: Key = ()) -> Iterator[Key]:
    """The keys of all settings in a value of this kind."""
    fields = {} if kind is Any else fields_of(kind)
    if fields is None or not isinstance(value, Mapping):
        yield key
    else:
        for name, inside in value.items():
            yield from setting_keys(fields.get(name, Any), inside, (*key, name))


def field_types(owner: type) -> dict[str, Any]:
    """The types of a dataclass's fields, as far as they are arguments of its constructor.

    Raises:
        UsageError: an annotation names something that does not exist at run time.
    """
    try:
        hints = get_type_hints(owner, include_extras=True)
    except NameError as error:
        raise UsageError(
            f"the settings of {owner.__qualname__} ({owner.__module__}) cannot be checked: {error}."
            " Its plugin must import the types of its fields at run time."
        ) from error
    return {field.name: hints[field.name] for field in dataclasses.fields(owner) if field.init}


def argument_types(function: Any) -> dict[str, Any]:
    """The types of the arguments of a function or class, as far as they are there at run time;
    else ``Any``."""
    types: dict[str, Any] = {}
    code = vars(function).get("__init__") if isinstance(function, type) else function
    for name, parameter in inspect.signature(function).parameters.items():
        types[name] = Any
        if parameter.annotation is not parameter.empty:
            alone = type(name, (), {"__annotations__": {name: parameter.annotation}})
            with suppress(Exception):  # whatever its text says
                scope = getattr(code, "__globals__", {})
                types[name] = get_type_hints(alone, scope, include_extras=True)[name]
    return types


def is_optional(kind: Any) -> bool:
    """Whether the empty string unsets a setting of this type."""
    return NoneType in get_args(kind)


def without_none(kind: Any) -> Any:
    """T for ``T | None``; any other type as it is."""
    kinds = [each for each in get_args(kind) if each is not NoneType]
    return kinds[0] if is_optional(kind) and len(kinds) == 1 else kind


def explain(error: ValidationError, value: Any) -> Problems:
    """What pydantic says about a value, in the words of a settings file."""
    details: dict[Key, list[Mapping[str, Any]]] = {}
    for detail in error.errors(include_url=False):
        details.setdefault(_place(detail, value), []).append(dict(detail))
    # Of the types that a value may have, the ones count that fit it best.
    outer = {place[:depth] for place in details for depth in range(len(place))}
    return {place: _message(found) for place, found in details.items() if place not in outer}


def _place(detail: Mapping[str, Any], value: Any) -> Key:
    """Where in a value something is wrong: keys and indices, without the types that were tried."""
    place: list[str] = []
    for part in detail["loc"]:
        found = isinstance(value, Mapping) and part in value
        is_field = not place or (part is detail["loc"][-1] and detail["type"] == "missing")
        if found or is_field or isinstance(part, int):
            place.append(str(part))
            listed = isinstance(value, (list, tuple)) and isinstance(part, int)
            inside = found or (listed and part < len(value))
            value = value[part] if inside else None
    return tuple(place)


def _message(details: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong at one place, where several types may have been tried."""
    kind, text, value = (details[0][name] for name in ("type", "msg", "input"))
    if kind in _MESSAGES:
        return _MESSAGES[kind]
    if not text.startswith(_SHOULD):
        text = text.removeprefix("Value error, ").removeprefix("Assertion failed, ")
        return f"is refused: {text}"
    texts = (detail["msg"].removeprefix(_SHOULD) for detail in details)
    types = ("a table" if text == "an object" else text for text in texts)
    return f"should be {' or '.join(dict.fromkeys(types))}, not {value!r}"
