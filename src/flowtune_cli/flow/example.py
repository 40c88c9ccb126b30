"""An example: a flow's inputs and, where there are labels, the right answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """One example of a dataset.

    Args:
        id: unique within its data; identifies the example in the run store, and seeds its
            randomness.
        inputs: what the flow may use. Each entry is also an attribute: ``example.question``.
        gold: the labels, for rewards, targets and metrics only; None where there are none.
    """

    id: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    gold: Any = None

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["inputs"][name]
        except KeyError:
            known = ", ".join(self.__dict__.get("inputs", {})) or "none"
            raise AttributeError(f"example has no input '{name}'; it has: {known}") from None


_MOST_JSON = 1000
"""The most letters of an input that is no text but shown as JSON."""


def labelled_inputs(example: Example) -> list[str]:
    """The inputs that can be read, each as "name: value"; a text of several lines begins a line.

    These are all texts, and what has a short form in JSON.
    """
    found = []
    for name, value in example.inputs.items():
        text = value if isinstance(value, str) else _short_json(value)
        if text is not None:
            found.append(f"{name}:\n{text}" if "\n" in text else f"{name}: {text}")
    return found


def _short_json(value: Any) -> str | None:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return text if len(text) <= _MOST_JSON else None
