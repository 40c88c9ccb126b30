"""What layers of settings say of tasks, before it is known which tasks there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def task_tables(layers: Sequence[Mapping[Any, Any]]) -> dict[str, Any]:
    """The tables of tasks as layers set them, by name."""
    tables: dict[str, Any] = {}
    for layer in layers:
        for key, setting in layer.items():
            if key[0] == "tasks":
                _put(tables, key[1:], setting.value)
    return tables


def _put(table: dict[str, Any], names: Sequence[str], value: Any) -> None:
    if not names:
        for name, inside in value.items() if isinstance(value, Mapping) else ():
            _put(table, [name], inside)
        return
    first, *rest = names
    if isinstance(value, Mapping) or rest:
        inner = table.setdefault(first, {})
        if isinstance(inner, dict):
            _put(inner, rest, value)
    else:
        table[first] = value


def declared_nodes(
    name: str, in_file: Mapping[str, Any], said: Mapping[str, Any], stored: Mapping[str, Any]
) -> list[str]:
    """The nodes that are declared.

    Those that ``--set`` names count only where there are no others: else they are misspelt.
    """
    names = dict.fromkeys(
        node
        for tables in (stored, in_file)
        for node, table in _nodes(tables.get(name)).items()
        if isinstance(table, Mapping)
    )
    return list(names or _nodes(said.get(name)))


def _nodes(table: Any) -> Mapping[str, Any]:
    nodes = table.get("nodes") if isinstance(table, Mapping) else None
    return nodes if isinstance(nodes, Mapping) else {}
