"""An example: what a flow is asked, and (where known) what would have been right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """One question for a flow.

    Args:
        id: unique within its data; names the example in the run store and seeds its randomness.
        inputs: what the flow may look at. Each entry is also an attribute: ``example.question``.
        gold: what only rewards, targets and metrics may look at; None where there are no labels.
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
