"""Settings that name a thing and its options: ``"adam"`` or ``{name = "adam", lr = 1e-3}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def name_and_options(value: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the options. A string is a name without options.

    Raises:
        ValueError: a table has no name.
    """
    if isinstance(value, str):
        return value, {}
    options = dict(value)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f'{value!r} has no name: write {{name = "...", ...}}')
    return name, options
