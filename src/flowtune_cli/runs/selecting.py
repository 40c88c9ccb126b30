"""Which episodes of a store are wanted, and in which order, as SQL on the table ``episodes``."""

from __future__ import annotations

from typing import Any

from .stored import Filter, Order
from .stored_text import storable

_COLUMNS = {"number": "number", "gain": "best_gain", "preferences": "preferences", "steps": "steps"}


def condition(where: Filter) -> tuple[str, dict[str, Any]]:
    """The SQL for a filter, and its values."""
    conditions, values = ["1"], {}
    of_node = "" if where.node is None else "AND node = :node"

    def some(source: str, wanted: bool = True) -> None:
        conditions.append(f"number {'' if wanted else 'NOT '}IN (SELECT episode FROM {source})")

    if where.node is not None:
        values["node"] = where.node
    if where.outcome is not None:
        values["outcome"] = where.outcome.value
        some(f"rollouts WHERE outcome = :outcome {of_node}")
    if where.preference is not None and where.node is not None:
        some("preferences WHERE node = :node", where.preference)
    elif where.preference is not None:
        conditions.append("preferences > 0" if where.preference else "preferences = 0")
    if where.truncated is not None and where.node is not None:
        some("steps WHERE node = :node AND rollout = 0 AND truncated = 1", where.truncated)
    elif where.truncated is not None:
        conditions.append("truncated > 0" if where.truncated else "truncated = 0")
    if where.node is not None and where.outcome is None:
        some("steps WHERE node = :node AND rollout = 0")
    if where.failed is not None:
        conditions.append(f"error IS {'NOT ' if where.failed else ''}NULL")
    if where.example_id is not None:
        conditions.append("example_id = :example_id")
        values["example_id"] = storable(where.example_id)
    return " AND ".join(conditions), values


def ordering(order: Order) -> tuple[str, str, dict[str, Any]]:
    """What is joined for an order, the SQL of the order itself, and its values."""
    direction = "DESC" if order.descending else "ASC"
    if order.by != "reward":
        column = _COLUMNS[order.by]
        then = "" if column == "number" else ", number"
        return "", f"{column} IS NULL, {column} {direction}{then}", {}
    means = "SELECT episode, avg(value) AS mean FROM rewards WHERE name = :reward GROUP BY episode"
    join = f"LEFT JOIN ({means}) AS means ON means.episode = number"
    return join, f"mean IS NULL, mean {direction}, number", {"reward": storable(order.reward)}
