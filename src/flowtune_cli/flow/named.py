"""A choice by name with options: ``"adam"``, or ``{"name": "adam", "lr": 0.001}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import UsageError


def named(value: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the options of a choice; a string is short for a name without options.

    Raises:
        UsageError: a table has no name, or one that is not a string.
    """
    if isinstance(value, str):
        return value, {}
    options = dict(value)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UsageError('needs a name and its options, such as {name = "adam", lr = 0.001}')
    return name, options
