"""Which settings there are: one pydantic model of all tables, made for the tasks at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.errors import PydanticUserError

from ..flow.errors import UsageError
from ..flow.node import Node
from ..flow.task import Task
from .settings import Settings

_TABLE = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


def schema(tasks: Mapping[str, Any]) -> type[BaseModel]:
    """The model of all settings, with a model for each task."""
    return create_model("Schema", __base__=Settings, tasks=(table("tasks", tasks), None))


def task_table(task: type[Task], nodes: Any = Any) -> type[BaseModel]:
    """The model of ``[tasks.NAME]``: the task's own settings, and the model of its nodes."""
    if task.Settings is None:
        return table(task.name, {"nodes": nodes})
    extended: type[BaseModel] = create_model(task.name, __base__=task.Settings, nodes=(nodes, None))
    return extended


def nodes_table(nodes: Iterable[Node]) -> type[BaseModel]:
    """The model of ``[tasks.NAME.nodes]``."""
    return table("nodes", {node.name: _record(type(node), ("name",)) for node in nodes})


@cache
def _record(kind: type, hidden: Sequence[str] = ()) -> type[BaseModel]:
    """The model of a table that holds a dataclass's fields; dataclasses in it are tables, too."""
    fields = {name: t for name, t in field_types(kind).items() if name not in hidden}
    for name, annotation in fields.items():
        inner = without_none(annotation)
        if _is_record(inner):
            fields[name] = _record(inner) | None if is_optional(annotation) else _record(inner)
    try:
        return table(kind.__name__, fields)
    except PydanticUserError:
        checked = {name: t if _can_be_checked(t) else _PythonOnly for name, t in fields.items()}
        return table(kind.__name__, checked)


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


class _PythonOnly:
    """The type of a setting that pydantic cannot check."""


def _can_be_checked(kind: Any) -> bool:
    try:
        table("one", {"value": kind})
    except PydanticUserError:
        return False
    return True


def table(name: str, fields: Mapping[str, Any]) -> type[BaseModel]:
    """The model of a table with these settings, each with its type."""
    # Through aliases, a setting may have any name, even one that pydantic uses itself.
    aliased: dict[str, Any] = {
        f"field_{number}": (kind, Field(None, alias=key))
        for number, (key, kind) in enumerate(fields.items())
    }
    return create_model(name, __config__=_TABLE, **aliased)


def set_values(values: BaseModel) -> dict[str, Any]:
    """The values that were set in a model made by ``table``, by the names of their settings."""
    fields = type(values).model_fields
    return {str(fields[name].alias): getattr(values, name) for name in values.model_fields_set}


def build(kind: type, current: Any, values: BaseModel) -> Any:
    """A dataclass instance with the values that a table sets, instead of ``current``'s own.

    Raises:
        FlowtuneError, ValueError, TypeError: the class refuses them.
    """
    changes = set_values(values)
    for name, value in changes.items():
        inner = without_none(field_types(kind)[name])
        if isinstance(value, BaseModel) and _is_record(inner):
            changes[name] = build(inner, getattr(current, name, None), value)
    if current is None:
        return kind(**changes)
    return dataclasses.replace(current, **changes) if changes else current


def fields_of(kind: Any) -> dict[str, Any] | None:
    """The settings of a table, each with its type; None for the type of a single value.

    A table is merged key by key with those of other layers. A single value is replaced as a whole,
    even if it is a mapping.
    """
    kind = without_none(kind)
    if get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, BaseModel):
        return {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
    return None


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
