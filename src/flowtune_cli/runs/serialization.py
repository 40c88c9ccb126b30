"""Text and JSON as the store keeps them: identical from run to run, and valid UTF-8."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Set
from typing import Any

from ..flow.surrogates import escaped

_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")


def visible(text: str) -> str:
    """The text with terminal control characters as escapes."""
    return "".join(c if c in "\n\t" or c.isprintable() else repr(c)[1:-1] for c in text)


def without_addresses(text: str) -> str:
    """An error message or traceback without memory addresses, which differ between runs."""
    return escaped(_ADDRESS.sub("0x…", text))


def to_json(value: Any) -> str | None:
    """A value as JSON text; None stays None. What JSON cannot express is stored as its ``str``."""
    if value is None:
        return None
    return escaped(json.dumps(json_values(value), ensure_ascii=False))


def from_json(text: str | None) -> Any:
    """The value that ``to_json`` returned as text."""
    return None if text is None else json.loads(text)


def json_values(value: Any) -> Any:
    """A value as JSON values. What JSON cannot express, such as NaN, becomes its ``str``."""
    if isinstance(value, float):
        # JSON has no such numbers; numpy's own float64 is a float, too.
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return json_values(value.item())  # a number of numpy's, or a tensor of one
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else without_addresses(str(key)): json_values(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    if isinstance(value, Set):  # its order differs between processes
        return sorted((json_values(item) for item in value), key=lambda item: json.dumps(item))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: json_values(getattr(value, field.name)) for field in fields}
    return without_addresses(str(value))
