"""What a directory of saved adapters says of the nodes: which adapter each has, and its head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..flow.errors import UsageError

FILE = "flowtune.json"
REFERENCE = "reference-of-"


def reference_of(name: str) -> str:
    """The name of the reference of an adapter, or of a node's head."""
    return REFERENCE + name


def extra_json(name: str, version: int, heads: Mapping[str, Mapping[str, float]]) -> str:
    """What is stored beside an adapter's weights.

    Args:
        name: the adapter's; its owner has that name, too.
        heads: of its nodes, by their names; an empty one for a node without a head.
    """
    extra: dict[str, Any] = {"version": version, "head": dict(heads.get(name, {}))}
    shared = {node: dict(head) for node, head in heads.items() if node != name}
    if shared:
        extra["shared"] = shared
    return json.dumps(extra) + "\n"


@dataclass(frozen=True)
class StoredNode:
    """A node as it was saved.

    Args:
        adapter: the name of the adapter that it used.
        head: its parameters learned beside the adapter; ``reference_head`` those of the reference.
    """

    adapter: str
    head: Mapping[str, float] = field(default_factory=dict)
    reference_head: Mapping[str, float] = field(default_factory=dict)


def stored_nodes(directory: Path) -> dict[str, StoredNode]:
    """The nodes that have an adapter in a directory that ``Adapters.save`` wrote, by name.

    Raises:
        UsageError: what is stored of an adapter cannot be read.
    """
    found: dict[str, StoredNode] = {}
    if not directory.is_dir():
        return found
    for path in sorted(directory.iterdir()):
        if not path.is_dir() or path.name.startswith(REFERENCE):
            continue
        own, reference = (_heads(directory / each) for each in (path.name, reference_of(path.name)))
        for node in own:
            found[node] = StoredNode(path.name, own[node], reference.get(node, {}))
    return found


def stored_version(directory: Path) -> int:
    """How many updates an adapter had had when it was saved.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    try:
        return int(json.loads((directory / FILE).read_text())["version"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{FILE} does not say its version") from error


def _heads(directory: Path) -> dict[str, Mapping[str, float]]:
    """The heads of an adapter's nodes; an adapter's own node has its name."""
    try:
        extra = json.loads((directory / FILE).read_text())
        name = directory.name.removeprefix(REFERENCE)
        return {name: extra.get("head", {}), **extra.get("shared", {})}
    except FileNotFoundError:
        return {directory.name.removeprefix(REFERENCE): {}}  # whoever loads it says what is missing
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"the adapter in {directory} cannot be read: {error}") from error
