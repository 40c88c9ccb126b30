"""Which settings there are: tables of leaves, each of which checks its own value."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Any, Union, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.errors import PydanticUserError

from ..flow.errors import UsageError
from ..flow.node import Node
from .layers import Key
from .settings import Settings

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


@dataclass(frozen=True)
class Leaf:
    """A setting that is replaced as a whole, even if its value is a mapping.

    Types are strict and TOML's: an array for a tuple, a string for a path, no number for a string.

    Args:
        type: the type of its value.
        model: the model that it is a field of, whose constraints and validators apply.
        field: its name there.
    """

    type: Any
    model: type[BaseModel] | None = None
    field: str = "value"

    @property
    def optional(self) -> bool:
        return is_optional(self.type)

    def check(self, value: Any) -> tuple[Any, Problems]:
        """The value as its type has it, and what is wrong with it."""
        values = {self.field: value}
        try:
            model = self.model or create_model("Value", __config__=_CONFIG, value=(self.type, ...))
            checked = model.model_validate_json(json.dumps(values, default=str), strict=True)
            return getattr(checked, "value", value), {}
        except PydanticUserError:
            return value, {(): _MESSAGES["needs_python_object"]}
        except ValidationError as error:
            # What is said about other fields of the model is left to when all of it is made.
            problems = explain(error, values).items()
            return value, {
                place[1:]: text for place, text in problems if place[:1] == (self.field,)
            }


@dataclass(frozen=True)
class Table:
    """A table of settings, merged key by key with those of other layers.

    Args:
        fields: the leaves and tables in it, by name.
        type: the dataclass that has these fields; None for any other table.
        optional: whether the empty string unsets it.
        open: whether it may have other settings, too.
    """

    fields: Mapping[str, Kind]
    type: Any = None
    optional: bool = False
    open: bool = False


Kind = Union[Leaf, Table, None]
"""None is a value or a table of which nothing is known."""


def model_table(model: type[BaseModel], optional: bool = False) -> Table:
    """The table of a pydantic model; models in it are tables, too."""
    fields: dict[str, Kind] = {}
    for name, field in model.model_fields.items():
        key, kind = field.alias or name, without_none(field.annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields[key] = model_table(kind, is_optional(field.annotation))
        else:
            fields[key] = Leaf(field.annotation, model, key)
    return Table(fields, None, optional, model.model_config.get("extra") == "allow")


@cache
def dataclass_table(owner: type, optional: bool = False) -> Table:
    """The table of a dataclass; dataclasses in it are tables, too."""
    fields: dict[str, Kind] = {}
    for name, annotation in field_types(owner).items():
        kind = without_none(annotation)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            fields[name] = dataclass_table(kind, is_optional(annotation))
        else:
            fields[name] = Leaf(annotation)
    return Table(fields, owner, optional)


def node_table(node: type[Node]) -> Table:
    """The table of a node type, without the name."""
    table = dataclass_table(node)
    fields = {name: kind for name, kind in table.fields.items() if name != "name"}
    return dataclasses.replace(table, fields=fields)


def build(table: Table, current: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass instance with checked values in place of ``current``'s own.

    Raises:
        FlowtuneError, ValueError, TypeError: the class refuses them.
    """
    changes = {}
    for name, value in values.items():
        kind = table.fields[name]
        if isinstance(kind, Table) and value is not None:
            changes[name] = build(kind, getattr(current, name, None), value)
        else:
            changes[name] = kind.check(value)[0] if isinstance(kind, Leaf) else value
    if current is None:
        return table.type(**changes)
    return dataclasses.replace(current, **changes) if changes else current


def leaf_keys(kind: Kind, value: Any, key: Key = ()) -> Iterator[Key]:
    """The keys of all leaves in a value of this kind."""
    if isinstance(value, Mapping) and not isinstance(kind, Leaf):
        for name, inside in value.items():
            yield from leaf_keys(kind and kind.fields.get(name), inside, (*key, name))
    else:
        yield key


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
    *_, last = loc = detail["loc"] or (None,)
    place = []
    for part in loc:
        found = isinstance(value, Mapping) and part in value
        is_field = not place or (part is last and detail["type"] == "missing")
        if part is not None and (found or is_field or isinstance(part, int)):
            place.append(str(part))
            value = value[part] if found or isinstance(value, (list, tuple)) else None
    return tuple(place)


def _message(details: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong at one place, where several types may have been tried."""
    kind, text, value = (details[0][name] for name in ("type", "msg", "input"))
    if kind in _MESSAGES:
        return _MESSAGES[kind]
    if not text.startswith(_SHOULD):
        return (
            f"is refused: {text.removeprefix('Value error, ').removeprefix('Assertion failed, ')}"
        )
    texts = (detail["msg"].removeprefix(_SHOULD) for detail in details)
    types = ("a table" if text == "an object" else text for text in texts)
    return f"should be {' or '.join(dict.fromkeys(types))}, not {value!r}"


SETTINGS = model_table(Settings)
