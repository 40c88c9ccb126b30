"""A call's inputs that remember which of them a node has looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class ReadInputs(Mapping[str, Any]):
    """Inputs that say afterwards what nobody has asked for, such as one that is misspelt.

    Attributes:
        read: the names of those that were looked at.
    """

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self._inputs = inputs
        self.read: set[str] = set()

    @property
    def unread(self) -> list[str]:
        """The others, in their order."""
        return [name for name in self._inputs if name not in self.read]

    def __getitem__(self, name: str) -> Any:
        value = self._inputs[name]
        self.read.add(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs)
