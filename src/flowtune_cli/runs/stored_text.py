"""Texts and JSON as they are stored: the same from run to run, and possible to store and show."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Set
from typing import Any

_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")


def storable(text: str) -> str:
    """The text with lone surrogates, which have no UTF-8, shown as escapes like ``\\ud800``."""
    return text.encode("utf-8", "backslashreplace").decode()


def visible(text: str) -> str:
    """The text with what would steer a terminal shown as escapes."""
    return "".join(c if c in "\n\t" or c.isprintable() else repr(c)[1:-1] for c in text)


def message(text: str) -> str:
    """An error's message or traceback without memory addresses, which differ between runs."""
    return storable(_ADDRESS.sub("0x…", text))


def to_json(value: Any) -> str | None:
    """A value as JSON text; None stays None. What JSON has no word for is shown as its ``str``."""
    if value is None:
        return None
    return storable(json.dumps(_plain(value), ensure_ascii=False))


def from_json(text: str | None) -> Any:
    """The value of what ``to_json`` gave."""
    return None if text is None else json.loads(text)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else message(str(key)): _plain(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Set):  # whose order differs from process to process
        return sorted((_plain(item) for item in value), key=lambda item: json.dumps(item))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: _plain(getattr(value, field.name)) for field in fields}
    return message(str(value))
