"""Finds out which nodes a program has, from the model names that it asks for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ..flow.errors import UsageError
from ..flow.node import Node

_NAME = re.compile(r"[A-Za-z0-9]+([_-][A-Za-z0-9]+)*")


class FoundNodes(dict[str, Node]):
    """Nodes that are made when they are first asked for.

    Every name is among them, but only those asked for are listed.

    Args:
        make: makes a node of a name.
    """

    def __init__(self, make: Callable[[str], Node]) -> None:
        super().__init__()
        self._make = make

    def __contains__(self, name: Any) -> bool:
        return isinstance(name, str)

    def __missing__(self, name: str) -> Node:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"the program asks for the model '{name}', which cannot be a node's name: it needs"
                " letters and digits with single '_' or '-' between them. Name it after what it"
                " does, such as 'draft'."
            )
        node = self[name] = self._make(name)
        return node
