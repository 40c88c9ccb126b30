"""Merges layers of settings and checks their values, with each problem's key and origin.

Types are strict, as in TOML: no number for a string. But what was typed on the command line or in
the environment is a string where one is wanted.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from ..flow.errors import FlowtuneError, UsageError, unknown_name
from ..registry import Registry
from .layers import DEFAULT, Key, Layer, Origin, Setting, merge
from .renamed import renamed
from .schema import fields_of, is_optional, without_none
from .settings import Settings


class Checker:
    """Merges layers and checks the values. Collects problems, so that all are reported at once.

    Attributes:
        settings: the merged settings, by their keys.
        problems: origin and message of each.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.settings: dict[Key, Setting] = {}
        self.problems: list[tuple[Origin, str]] = []

    def finish(self, task: str | None) -> None:
        """Raise a UsageError if there are problems; other tasks' own mistakes are left out."""
        lines = [
            f"{origin}: {text}"
            for origin, text in dict.fromkeys(self.problems)
            if origin.layer != "task" or origin == _default(("tasks", str(task)))
        ]
        if len(lines) > 1:
            lines.insert(0, f"{len(lines)} settings cannot be used:")
        if any(origin.layer == "preset" for origin, _ in self.problems):
            lines.append("'--preset none' leaves the preset out")
        if lines:
            raise UsageError("\n  ".join(lines))

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
        table, fields = without_none(kind), fields_of(kind) or {}
        if name in fields or table.model_config.get("extra") == "allow":
            return fields.get(name, Any)
        if key[:-1] == ("tasks",):
            # A task of a plugin that failed, or is left out, cannot be told from a misspelt one,
            # unless it looks like one that is installed. Until then its settings are kept.
            missing = self.registry.left_out or self.registry.failed("task")
            if missing and not difflib.get_close_matches(name, fields):
                return Any
            error = self.registry.unknown("task", name)
        else:
            error = _unknown_setting(key, fields)
        self.problems.append((setting.origin, str(error)))
        return None

    def tree(self, where: Key, without: str = "") -> dict[str, Any]:
        """The values below a key, as nested tables; without the table of this name."""
        tree: dict[str, Any] = {}
        for key, setting in self.settings.items():
            if key[: len(where)] == where and key[len(where)] != without:
                *tables, last = key[len(where) :]
                parent = tree
                for name in tables:
                    parent = parent.setdefault(name, {})
                parent[last] = setting.value
        return tree

    def origins(self, key: Key) -> list[Origin]:
        """Where a setting, or those in a table, were set; nothing if they have their defaults."""
        above = [key[:depth] for depth in range(len(key), 0, -1) if key[:depth] in self.settings]
        below = (k for k in self.settings if k[: len(key)] == key)
        return [self.settings[k].origin for k in above or below]

    def origin(self, key: Key) -> Origin:
        """Where a setting was set, or the strongest origin in a table."""
        return max(self.origins(key), key=lambda origin: origin.rank, default=_default(key))

    def complain(self, key: Key, text: str) -> None:
        self.problems.append((self.origin(key), f"{'.'.join(key)} {text}"))

    def attempt(self, key: Key, call: Callable[[], Any], what: str = "cannot be used") -> Any:
        """The result of a call that a setting depends on; None after a complaint."""
        try:
            return call()
        except (FlowtuneError, ValueError, TypeError) as error:
            self.complain(key, f"{what}: {error}")
            return None

    def validate(self, model: type[BaseModel], where: Key = (), without: str = "") -> Any:
        """The settings below a key as an instance of a model; None after a complaint.

        Args:
            without: a table below the key that is left out.
        """
        problems, result = validated(model, tree := self.tree(where, without))
        typed = False
        for place, details in problems.items():
            setting = self.settings.get(key := (*where, *place))
            wanted = any(detail["type"] == "string_type" for detail in details)
            if wanted and setting is not None and setting.text is not None:
                self.settings[key] = replace(setting, value=setting.text)
                typed = True
        if typed:
            problems, result = validated(model, tree := self.tree(where, without))
        if problems and not any(self.origins((*where, *place)) for place in problems):
            # Only defaults were refused. They may be Python objects that JSON does not have.
            problems, result = validated(model, tree, as_json=False)
        for place, details in problems.items():
            self.complain((*where, *place), message(details))
        return result


def _default(key: Key) -> Origin:
    """The origin of a setting that was not set."""
    return Origin("task", f"task {key[1]}") if key[0] == "tasks" else DEFAULT


def _matching(name: str, names: Iterable[str], origin: Origin) -> str:
    """The one of these names that a variable's means: it has lost case and hyphens."""
    if origin.layer != "environment":
        return name
    return next((n for n in names if n.lower().replace("-", "_") == name), name)


def _unknown_setting(key: Key, fields: Iterable[str]) -> UsageError:
    """The error for a setting that does not exist.

    Args:
        fields: the settings that its table has.
    """
    name, instead = ".".join(key), renamed(key)
    if instead is not None:
        return UsageError(f"there is no setting '{name}' any more: {instead}")
    names = [".".join((*key[:-1], field)) for field in fields]
    if len(key) == 2:  # It may have been meant for another section.
        sections = (fields_of(Settings) or {}).items()
        same = [f"{s}.{key[1]}" for s, kind in sections if key[1] in (fields_of(kind) or ())]
        names = same or names
    return unknown_name("setting" if len(key) > 1 else "section", name, names)


_SHOULD = "Input should be "
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
            text = text.partition(", ")[2]
        if kind in ("dict_type", "model_type", "dataclass_type"):
            text = f"{_SHOULD}a table"
        if not text.startswith(_SHOULD):
            return f"is refused: {text}"
        texts.append(text.removeprefix(_SHOULD))
    return f"should be {' or '.join(dict.fromkeys(texts))}, not {detail['input']!r}"
