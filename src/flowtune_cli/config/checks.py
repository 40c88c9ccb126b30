"""Merging assignments and checking the values that come of them, each complaint with its origin."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from ..flow.errors import FlowtuneError, UsageError, unknown_name
from .sources import CHOICES, Assignment

T = TypeVar("T")
Path = tuple[str, ...]
_LACKING = ("missing", "missing_argument")
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
"""What pydantic says of a key that is not there, and of one that ought not to be."""

Detail = tuple[Path, Mapping[str, Any]]
"""What is wrong with a part of a value: where in it, and pydantic's words."""


class Checker:
    """Collects what is wrong with settings, so that a person sees all of it at once.

    Attributes:
        problems: each as where the value is from, and what is wrong with it.
        given: the assignment that each setting has its value from, if not its default.
    """

    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []
        self.given: dict[Path, Assignment] = {}

    def finish(self) -> None:
        """Raise a UsageError if anything was wrong."""
        lines = [f"{origin}: {text}" for origin, text in dict.fromkeys(self.problems)]
        if len(lines) == 1:
            raise UsageError(lines[0])
        if lines:
            raise UsageError("\n  ".join([f"{len(lines)} settings cannot be used:", *lines]))

    def merge(
        self, assignments: Iterable[Assignment], where: Path, base: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The base with the assignments put in, in their order; all paths begin with ``where``.

        A table changes the keys that it names. Where another thing is chosen (an optimizer, an
        exploration), the options given before it, for the old one, are dropped.
        """
        tree = copy.deepcopy(dict(base))
        for assignment in assignments:
            *inner, last = assignment.path[len(where) :]
            parent = tree
            for name in inner:
                if not isinstance(parent.get(name), dict):
                    parent[name] = {}
                parent = parent[name]
            chosen_anew = parent.get(last) != assignment.value
            for options in CHOICES.get(last, ()):
                if options in parent and chosen_anew:
                    parent[options] = {}
                    self._forget((*assignment.path[:-1], options))
            if assignment.value != {} or not isinstance(parent.get(last), dict):
                parent[last] = assignment.value
                self._forget(assignment.path)
            self.given[assignment.path] = assignment
        return tree

    def origin(self, path: Path) -> str | None:
        """Where a setting has its value from; None if it is a default."""
        for depth in range(len(path), 0, -1):
            if path[:depth] in self.given:
                return self.given[path[:depth]].origin
        below = [a.origin for p, a in self.given.items() if p[: len(path)] == path]
        return ", ".join(dict.fromkeys(below)) or None

    def complain(self, path: Path, text: str, otherwise: str = "") -> None:
        """Note a problem with the setting at ``path``; ``otherwise`` is whose default it is."""
        self.problems.append((self.origin(path) or otherwise, f"{'.'.join(path)} {text}"))

    def unknown(self, path: Path, known: Iterable[str], origin: str | None = None) -> None:
        """Note that there is no setting at ``path``; ``known`` are the full names of those near."""
        error = unknown_name("setting", ".".join(path), list(known))
        self.problems.append((origin or self.origin(path) or "default", str(error)))

    def validate(self, kind: Any, value: Any, where: Path, otherwise: str = "") -> Any:
        """The value as an instance of ``kind``, a type or pydantic model; None after a complaint.

        Types are strict (no number for a text), as they are in a TOML file; but what was typed on
        the command line or in the environment is a text where one is wanted.
        """
        try:
            adapter = _adapter(kind)
        except PydanticUserError:
            self.complain(where, f"cannot be set: its type is {kind}", otherwise)
            return None
        details, result = _validated(adapter, value)
        retyped = self._as_typed(value, details, where)
        if retyped != value:
            value = retyped
            details, result = _validated(adapter, value)
        if details and not any(self.origin((*where, *location)) for location, _ in details):
            # Only defaults were refused: a Path is nothing that JSON has, for one.
            details, result = _validated(adapter, value, as_json=False)
        for location, detail in details:
            self.complain((*where, *location), _message(detail), otherwise)
        return result

    def replace(
        self, current: T, values: Mapping[str, Any], where: Path, hidden: Sequence[str] = ()
    ) -> T:
        """A dataclass instance with some fields set anew; as it was after a complaint."""
        annotations = field_types(type(current))
        known = [name for name in annotations if name not in hidden]
        changes: dict[str, Any] = {}
        before = len(self.problems)
        for name, value in values.items():
            path = (*where, name)
            old = getattr(current, name, None)
            if name not in known:
                self.unknown(path, [".".join((*where, k)) for k in known])
            elif isinstance(value, dict) and dataclasses.is_dataclass(old):
                changes[name] = self.replace(old, value, path)
            elif value == "" and may_be_none(annotations[name]):
                changes[name] = None
            else:
                changes[name] = self.validate(annotations[name], value, path)
        if len(self.problems) > before or not changes:
            return current
        try:
            return dataclasses.replace(current, **changes)  # type: ignore[type-var]
        except (FlowtuneError, ValueError, TypeError) as error:
            self.complain(where, f"cannot be set so: {error}")
            return current

    def _as_typed(self, value: Any, details: Sequence[Detail], where: Path) -> Any:
        """The value with texts, as typed, in the places where a text was wanted."""
        retyped = copy.deepcopy(value)
        for location, detail in details:
            path = (*where, *location)
            assignment = self.given.get(path)
            if detail["type"] != "string_type" or assignment is None or assignment.text is None:
                continue
            if path == where:
                return assignment.text
            parent = retyped
            for name in path[len(where) : -1]:
                parent = parent[name]
            parent[path[-1]] = assignment.text
        return retyped

    def _forget(self, path: Path) -> None:
        for other in [p for p in self.given if p[: len(path)] == path]:
            del self.given[other]


def field_types(owner: type) -> dict[str, Any]:
    """The fields of a dataclass that it can be made with, and their types.

    Raises:
        UsageError: its annotations name something that is not there at run time.
    """
    try:
        hints = get_type_hints(owner, include_extras=True)
    except NameError as error:
        raise UsageError(
            f"the settings of {owner.__qualname__} ({owner.__module__}) cannot be checked: {error}."
            " Its plugin must import the types of its fields at run time."
        ) from error
    return {f.name: hints[f.name] for f in dataclasses.fields(owner) if f.init}


def may_be_none(annotation: Any) -> bool:
    """Whether the empty text unsets a setting of this type."""
    return type(None) in get_args(annotation)


def matching(name: str, known: Iterable[str], loose: bool) -> str:
    """The known name that a loose one (a variable's) stands for, or the name itself."""
    if not loose:
        return name
    return next((k for k in known if k.lower().replace("-", "_") == name), name)


def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Checks values of this type; the fields of dataclasses in it, too, are all that is known."""
    try:
        return TypeAdapter(kind, config=ConfigDict(extra="forbid"))
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        return TypeAdapter(kind)  # a model, which says itself what it takes


def _validated(
    adapter: TypeAdapter[Any], value: Any, *, as_json: bool = True
) -> tuple[list[Detail], Any]:
    """What is wrong with a value, and what it is if nothing is.

    As JSON, types are strict and yet those of TOML: a list for a tuple, a text for a path.
    """
    try:
        if as_json:
            return [], adapter.validate_json(json.dumps(value, default=str), strict=True)
        return [], adapter.validate_python(value)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        details = [(_location(detail, value), dict(detail)) for detail in errors]
        # Of the types that a value may have, those count that fit it best.
        inner = {location[:depth] for location, _ in details for depth in range(len(location))}
        return [detail for detail in details if detail[0] not in inner], None


def _location(detail: Mapping[str, Any], value: Any) -> Path:
    """Where in a value something is wrong: keys and places, without the types that were tried."""
    if not detail["loc"]:
        return ()
    path = []
    *outer, last = detail["loc"]
    for part in outer:
        # The name of a type leads to where its value already is.
        if isinstance(value, Mapping) and part in value:
            path.append(str(part))
            value = value[part]
        elif isinstance(part, int):
            path.append(str(part))
            value = value[part] if isinstance(value, (list, tuple)) else None  # or a default's
    tried = isinstance(last, str) and detail["input"] == value and detail["type"] not in _LACKING
    return tuple(path) if tried else (*path, str(last))


def _message(detail: Mapping[str, Any]) -> str:
    kind, text = detail["type"], str(detail["msg"])
    if kind in _LACKING:
        return "must be set"
    if kind in _UNKNOWN:
        return "is not a setting"
    if kind in ("dict_type", "model_type", "dataclass_type"):
        text = "should be a table"
    if kind in ("value_error", "assertion_error"):
        return f"is refused: {text.partition(', ')[2]}"
    return f"{text.replace('Input should', 'should')}, not {detail['input']!r}"
