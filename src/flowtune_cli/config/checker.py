"""Merges the layers' settings along the schema; each problem has the key and the origin."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from ..flow.errors import FlowtuneError, UsageError, unknown_name
from ..registry import Registry
from .layers import DEFAULT, Entry, Key, Origin, Setting
from .paths import located
from .renamed import renamed
from .schema import check, explain, fields_of, is_open, is_optional
from .settings import SECTIONS

_REFUSED = object()
"""In place of a value, after a complaint about it."""


class Checker:
    """Merges settings and checks them. Collects problems, so that all are reported at once.

    Attributes:
        settings: those that were set, by their keys.
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

    def merge(self, kind: Any, key: Key, entries: Sequence[Entry], table: Any = None) -> Any:
        """The value of a setting, or a table of those that are set in it.

        Args:
            entries: what the layers set it to, or set in it; later ones override earlier ones.
            table: the kind of the table that it is in, which checks its value.
        """
        if is_optional(kind):
            # The empty string unsets what was set before it.
            *_, start = -1, *(i for i, (names, s) in enumerate(entries) if not names and s.is_empty)
            if start == len(entries) - 1:
                return self._set(key, replace(entries[start][1], value=None))
            entries = entries[start + 1 :]
        if fields_of(kind) is not None:
            return self.merge_all(kind, key, self.split(kind, key, entries))
        if kind is not Any:
            return self._value(kind, table, key, entries)
        tables = [e for e in entries if e[0] or isinstance(e[1].value, Mapping)]
        if entries and entries[-1] not in tables:
            return self._set(key, entries[-1][1])
        return self.merge_all({}, key, self.split(Any, key, tables))

    def merge_all(
        self, kind: Any, key: Key, groups: Mapping[str, Sequence[Entry]]
    ) -> dict[str, Any]:
        """The settings of a table that are set; those that are refused are left out."""
        fields = fields_of(kind) or {}
        merged = {
            name: self.merge(fields.get(name, Any), (*key, name), entries, kind)
            for name, entries in groups.items()
        }
        return {name: value for name, value in merged.items() if value is not _REFUSED}

    def split(self, kind: Any, key: Key, entries: Iterable[Entry]) -> dict[str, list[Entry]]:
        """The entries of a table, by the setting in it that each of them is about."""
        fields = fields_of(kind) or {}
        groups: dict[str, list[Entry]] = {}
        for names, setting in entries:
            inside: dict[str, Entry] = {}
            if names:
                inside = {names[0]: (names[1:], setting)}
            elif isinstance(setting.value, Mapping):
                for name, value in setting.value.items():
                    inside[name] = ((), replace(setting, value=value, text=None))
            else:
                self.complain(key, f"should be a table, not {setting.value!r}", setting.origin)
            for written, entry in inside.items():
                name = _matching(written, fields, setting.origin)
                error = None if is_open(kind) else self._unknown((*key, name), fields)
                if error is None:
                    groups.setdefault(name, []).append(entry)
                else:
                    self.problems.append((setting.origin, str(error)))
        return groups

    def _value(self, kind: Any, table: Any, key: Key, entries: Sequence[Entry]) -> Any:
        """The value that overrides the others, checked."""
        for names, setting in entries:
            if names:
                name, below = ".".join(key), ".".join((*key, *names))
                text = f"'{below}' cannot be set by itself: set '{name}' as a whole"
                self.problems.append((setting.origin, text))
        settings = [setting for names, setting in entries if not names]
        if not settings:
            return _REFUSED
        setting = settings[-1]
        value, problems = check(table, key[-1], setting.value)
        # What was typed is a string where one is wanted, even if it reads as a number.
        if () in problems and setting.text is not None:
            typed, refused = check(table, key[-1], setting.text)
            value, problems = (value, problems) if refused else (typed, {})
        if not problems:
            try:
                value = located(kind, value, setting.origin)
            except UsageError as error:
                problems = {(): f"cannot be used: {error}"}
        self._set(key, replace(setting, value=value))
        for place, text in problems.items():
            self.complain((*key, *place), text, setting.origin)
        return _REFUSED if problems else value

    def _set(self, key: Key, setting: Setting) -> Any:
        self.settings[key] = setting
        return setting.value

    def _unknown(self, key: Key, fields: Mapping[str, Any]) -> UsageError | None:
        """The error for a setting that is not among the fields of its table."""
        *above, last = key
        if last in fields:
            return None
        if above == ["tasks"]:
            # A task of a plugin that failed, or is left out, cannot be told from a misspelt one,
            # unless it looks like one that is installed.
            missing = self.registry.left_out or self.registry.failed("task")
            alike = difflib.get_close_matches(last, fields)
            return None if missing and not alike else self.registry.unknown("task", last)
        name, instead = ".".join(key), renamed(key)
        if instead is not None:
            return UsageError(f"there is no setting '{name}' any more: {instead}")
        names = [".".join((*above, field)) for field in fields]
        if len(key) == 2:  # It may have been meant for another section.
            same = [s for s, kind in SECTIONS.items() if last in kind.model_fields]
            names = [f"{section}.{last}" for section in same] or names
        return unknown_name("setting" if above else "section", name, names)

    def origin(self, key: Key) -> Origin:
        """Where a setting was set, or the strongest origin in a table."""
        above = [key[:depth] for depth in range(len(key), 0, -1) if key[:depth] in self.settings]
        keys = above[:1] or [other for other in self.settings if other[: len(key)] == key]
        origins = (self.settings[each].origin for each in keys)
        return max(origins, key=lambda origin: origin.rank, default=_default(key))

    def complain(self, key: Key, text: str, origin: Origin | None = None) -> None:
        self.problems.append((origin or self.origin(key), f"{'.'.join(key)} {text}"))

    def attempt(self, key: Key, call: Callable[[], Any], what: str = "cannot be used") -> Any:
        """The result of a call that a setting depends on; None after a complaint."""
        try:
            return call()
        except (FlowtuneError, ValueError, TypeError) as error:
            self.complain(key, f"{what}: {error}")
            return None

    def make(self, model: type[BaseModel], key: Key, values: Mapping[str, Any]) -> Any:
        """A model's instance with checked values; None after a complaint."""
        try:
            return model.model_validate(values, strict=False)
        except ValidationError as error:
            for place, text in explain(error, values).items():
                self.complain((*key, *place), text)
            return None


def _default(key: Key) -> Origin:
    """The origin of a setting that was not set."""
    return Origin("task", f"task {key[1]}") if key[0] == "tasks" else DEFAULT


def _matching(name: str, names: Iterable[str], origin: Origin) -> str:
    """The one of these names that a variable's means: it has lost case and hyphens."""
    if origin.layer != "environment":
        return name
    return next((n for n in names if n.lower().replace("-", "_") == name), name)
