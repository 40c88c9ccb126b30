"""Which settings there are: one pydantic model of all tables, and the checks against it.

Types are strict, as in TOML: no number for a string. But what was typed on the command line or in
the environment is a string where one is wanted.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ..flow.errors import FlowtuneError, UsageError, unknown_name
from ..flow.node import Node
from ..flow.task import Task
from .layers import DEFAULT, Key, Layer, Origin, Setting, merge
from .renamed import renamed
from .settings import Settings

_TABLE = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


def schema(tasks: Mapping[str, Any]) -> type[BaseModel]:
    """The model of all settings, with a model for each task."""
    return create_model("Schema", __base__=Settings, tasks=(table("tasks", tasks), None))


def task_table(task: type[Task], nodes: Iterable[Node] | None = None) -> type[BaseModel]:
    """The model of ``[tasks.NAME]``: the task's own settings, and those of its nodes.

    Args:
        nodes: None before they are known; then anything is accepted for them.
    """
    kind: Any = Any
    if nodes is not None:
        kind = table("nodes", {node.name: record(type(node), ("name",)) for node in nodes})
    if task.Settings is None:
        return table(task.name, {"nodes": kind})
    # Defaults are checked when the task's own model is made: JSON cannot hold all of them.
    lenient = {"validate_default": False}
    extended: type[BaseModel] = create_model(
        task.name, __base__=task.Settings, __cls_kwargs__=lenient, nodes=(kind, None)
    )
    return extended


def record(kind: type, hidden: Sequence[str] = ()) -> type[BaseModel]:
    """The model of a table that holds a dataclass's fields; dataclasses in it are tables, too."""
    fields = {name: t for name, t in field_types(kind).items() if name not in hidden}
    for name, annotation in fields.items():
        inner = _alone(annotation)
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            fields[name] = record(inner) | None if is_optional(annotation) else record(inner)
    return table(kind.__name__, fields)


def table(name: str, fields: Mapping[str, Any]) -> type[BaseModel]:
    """The model of a table with these settings, each with its type."""
    # Through aliases, a setting may have any name, even one that pydantic uses itself.
    aliased: dict[str, Any] = {
        f"field_{number}": (kind, Field(None, alias=key))
        for number, (key, kind) in enumerate(fields.items())
    }
    return create_model(name, __config__=_TABLE, **aliased)


def set_values(values: BaseModel | None) -> dict[str, Any]:
    """The values in a table that were set, by the names of their settings."""
    if values is None:
        return {}
    names = {name: field.alias or name for name, field in type(values).model_fields.items()}
    return {names.get(name, name): getattr(values, name) for name in values.model_fields_set}


def build(kind: type, current: Any, values: BaseModel) -> Any:
    """A dataclass instance with the values that a table sets, instead of ``current``'s own.

    Raises:
        FlowtuneError, ValueError, TypeError: the class refuses them.
    """
    changes = set_values(values)
    for name, value in changes.items():
        inner = _alone(field_types(kind)[name])
        if isinstance(value, BaseModel) and dataclasses.is_dataclass(inner):
            changes[name] = build(inner, getattr(current, name, None), value)
    if current is None:
        return kind(**changes)
    return replace(current, **changes) if changes else current


def fields_of(kind: Any) -> dict[str, Any] | None:
    """The settings of a table, each with its type; None for the type of a single value.

    A table is merged key by key with those of other layers. A single value is replaced as a whole,
    even if it is a mapping.
    """
    kind = _alone(kind)
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


def _alone(kind: Any) -> Any:
    """T for ``T | None``; any other type as it is."""
    kinds = [each for each in get_args(kind) if each is not NoneType]
    return kinds[0] if is_optional(kind) and len(kinds) == 1 else kind


class Checker:
    """Merges layers and checks the values. Collects problems, so that all are reported at once.

    Args:
        unknown_task: the error for a task that is not installed; None if its settings are kept.

    Attributes:
        settings: the merged settings, by their keys.
        problems: origin and message of each.
    """

    def __init__(self, unknown_task: Callable[[str], UsageError | None]) -> None:
        self.unknown_task = unknown_task
        self.settings: dict[Key, Setting] = {}
        self.problems: list[tuple[Origin, str]] = []

    def finish(self, task: str | None) -> None:
        """Raise a UsageError if there are problems; other tasks' own mistakes are left out."""
        lines = [
            f"{origin}: {text}"
            for origin, text in dict.fromkeys(self.problems)
            if origin.layer != "task" or origin == _default(("tasks", str(task)))
        ]
        if len(lines) == 1:
            raise UsageError(lines[0])
        if lines:
            raise UsageError("\n  ".join([f"{len(lines)} settings cannot be used:", *lines]))

    def merge(self, schema: type[BaseModel], layers: Iterable[Layer]) -> None:
        """Merge layers of this schema."""
        self.settings = merge(
            dict(self._flatten(schema, key, setting, ()))
            for layer in layers
            for key, setting in layer.items()
        )

    def _flatten(
        self, kind: Any, names: Key, setting: Setting, done: Key
    ) -> Iterator[tuple[Key, Setting]]:
        """Follow the names and tables of a setting down to single values."""
        fields, value, key = fields_of(kind), setting.value, ".".join(done)
        if names and (fields is not None or kind is Any):
            name = _matching(names[0], fields or (), setting.origin)
            inner = Any if fields is None else self._type_of(kind, name, (*done, name), setting)
            if inner is not None:
                yield from self._flatten(inner, names[1:], setting, (*done, name))
        elif names:
            text = f"'{key}.{'.'.join(names)}' cannot be set by itself: set '{key}' as a whole"
            self.problems.append((setting.origin, text))
        elif value in ("", None) and is_optional(kind):
            yield done, replace(setting, value=None, text=None)
        elif isinstance(value, Mapping) and (fields is not None or kind is Any):
            for name, inside in value.items():
                below = replace(setting, value=inside, text=None)
                yield from self._flatten(kind, (name,), below, done)
        elif fields is not None:
            self.problems.append((setting.origin, f"{key} should be a table, not {value!r}"))
        else:
            yield done, setting

    def _type_of(self, kind: Any, name: str, key: Key, setting: Setting) -> Any:
        """The type of a setting in a table; None after a complaint that there is none."""
        table, fields = _alone(kind), fields_of(kind) or {}
        if name in fields or table.model_config.get("extra") == "allow":
            return fields.get(name, Any)
        dotted, known = ".".join(key), [".".join((*key[:-1], field)) for field in fields]
        if key[:-1] == ("tasks",):
            error = self.unknown_task(name)
            if error is None:
                return Any
        elif instead := renamed(key):
            error = UsageError(f"there is no setting '{dotted}' any more: {instead}")
        elif len(key) == 1:
            error = unknown_name("section", name, known)
        else:
            elsewhere = [
                f"{section}.{name}"
                for section, type_ in (fields_of(Settings) or {}).items()
                if len(key) == 2 and name in (fields_of(type_) or ())
            ]
            error = unknown_name("setting", dotted, elsewhere or known)
        self.problems.append((setting.origin, str(error)))
        return None

    def tree(self, where: Key = ()) -> dict[str, Any]:
        """The values below a key, as nested tables."""
        tree: dict[str, Any] = {}
        for key, setting in self.settings.items():
            if key[: len(where)] == where and len(key) > len(where):
                *tables, last = key[len(where) :]
                parent = tree
                for name in tables:
                    parent = parent.setdefault(name, {})
                parent[last] = setting.value
        return tree

    def origin(self, key: Key) -> Origin:
        """Where a setting was set, or the strongest origin in a table."""
        for depth in range(len(key), 0, -1):
            if key[:depth] in self.settings:
                return self.settings[key[:depth]].origin
        below = [s.origin for k, s in self.settings.items() if k[: len(key)] == key]
        return max(below, key=lambda origin: origin.rank, default=_default(key))

    def complain(self, key: Key, text: str) -> None:
        self.problems.append((self.origin(key), f"{'.'.join(key)} {text}"))

    def attempt(self, key: Key, call: Callable[[], Any], what: str = "cannot be used") -> Any:
        """The result of a call that a setting depends on; None after a complaint."""
        try:
            return call()
        except (FlowtuneError, ValueError, TypeError) as error:
            self.complain(key, f"{what}: {error}")
            return None

    def validate(self, model: type[BaseModel], where: Key = ()) -> Any:
        """The settings below a key as an instance of a model; None after a complaint."""
        problems, result = validated(model, self.tree(where))
        typed = False
        for place, details in problems.items():
            setting = self.settings.get(key := (*where, *place))
            wanted = any(detail["type"] == "string_type" for detail in details)
            if wanted and setting is not None and setting.text is not None:
                self.settings[key] = replace(setting, value=setting.text)
                typed = True
        if typed:
            problems, result = validated(model, self.tree(where))
        for place, details in problems.items():
            self.complain((*where, *place), message(details))
        return result


def _default(key: Key) -> Origin:
    """The origin of a setting that was not set."""
    return Origin("task", f"task {key[1]}") if key[0] == "tasks" else DEFAULT


def _matching(name: str, known: Iterable[str], origin: Origin) -> str:
    """The known name that a variable's stands for: case and hyphens are lost in variables."""
    if origin.layer != "environment":
        return name
    return next((k for k in known if k.lower().replace("-", "_") == name), name)


Problems = dict[Key, list[Mapping[str, Any]]]
"""What pydantic says about a value: the errors of each place in it."""


def validated(model: type[BaseModel], value: Any, *, as_json: bool = True) -> tuple[Problems, Any]:
    """What is wrong with a value, and the model's instance if nothing is.

    As JSON, types are strict and still TOML's: an array for a tuple, a string for a path.
    """
    try:
        if as_json:
            return {}, model.model_validate_json(json.dumps(value, default=str), strict=True)
        return {}, model.model_validate(value)
    except ValidationError as error:
        problems: Problems = {}
        for detail in error.errors(include_url=False):
            problems.setdefault(_place(detail, value), []).append(dict(detail))
        # Of the types that a value may have, the ones count that fit it best.
        outer = {place[:depth] for place in problems for depth in range(len(place))}
        return {place: found for place, found in problems.items() if place not in outer}, None


def _place(detail: Mapping[str, Any], value: Any) -> Key:
    """Where in a value something is wrong: keys and indices, without the types that were tried."""
    place: list[str] = []
    *outer, last = detail["loc"] or (None,)
    for part in outer:
        # The name of a type leads to where its value already is.
        if isinstance(value, Mapping) and part in value:
            place.append(str(part))
            value = value[part]
        elif isinstance(part, int):
            place.append(str(part))
            value = value[part] if isinstance(value, (list, tuple)) else None  # or a default's
    missing = detail["type"].startswith("missing")
    is_type = isinstance(last, str) and detail["input"] == value and not missing
    return tuple(place) if last is None or is_type else (*place, str(last))


def message(details: Iterable[Mapping[str, Any]]) -> str:
    """What is wrong at one place, where several types may have been tried."""
    texts = []
    for detail in details:
        kind, text = detail["type"], str(detail["msg"])
        if kind.startswith("missing"):
            return "must be set"
        if kind in ("extra_forbidden", "unexpected_keyword_argument"):
            return "is not a setting"
        if kind == "needs_python_object":
            return "cannot be set: only Python has such values"
        if kind in ("value_error", "assertion_error"):
            return f"is refused: {text.partition(', ')[2]}"
        if kind in ("dict_type", "model_type", "dataclass_type"):
            text = "a table"
        texts.append(text.removeprefix("Input should be "))
    return f"should be {' or '.join(dict.fromkeys(texts))}, not {detail['input']!r}"
