"""An example: a flow's inputs and, where there are labels, the right answer."""

from __future__ import annotations

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
