"""SQL for filtering and sorting the table ``episodes``."""

from __future__ import annotations

from typing import Any

from ..flow.surrogates import escaped
from .records import Filter, Order

_COLUMNS = {"number": "number", "gain": "best_gain", "preferences": "preferences", "steps": "steps"}


def filter_sql(where: Filter) -> tuple[str, dict[str, Any]]:
    """The condition of a filter, and its parameters."""
    conditions, values = ["1"], {}
    and_node = "" if where.node is None else "AND node = :node"

    def add_subquery(source: str, include: bool = True) -> None:
        conditions.append(f"number {'' if include else 'NOT '}IN (SELECT episode FROM {source})")

    if where.node is not None:
        values["node"] = where.node
    if where.outcome is not None:
        values["outcome"] = where.outcome.value
        add_subquery(f"rollouts WHERE outcome = :outcome {and_node}")
    if where.preference is not None and where.node is not None:
        add_subquery("preferences WHERE node = :node", where.preference)
    elif where.preference is not None:
        conditions.append("preferences > 0" if where.preference else "preferences = 0")
    if where.truncated is not None and where.node is not None:
        add_subquery("steps WHERE node = :node AND rollout = 0 AND truncated = 1", where.truncated)
    elif where.truncated is not None:
        conditions.append("truncated > 0" if where.truncated else "truncated = 0")
    if where.node is not None and where.outcome is None:
        add_subquery("steps WHERE node = :node AND rollout = 0")
    if where.failed is not None:
        conditions.append(f"error IS {'NOT ' if where.failed else ''}NULL")
    if where.example_id is not None:
        conditions.append("example_id = :example_id")
        values["example_id"] = escaped(where.example_id)
    return " AND ".join(conditions), values


def order_sql(order: Order) -> tuple[str, str, dict[str, Any]]:
    """The JOIN that an order needs, its ORDER BY terms, and their parameters."""
    direction = "DESC" if order.descending else "ASC"
    if order.by != "reward":
        column = _COLUMNS[order.by]
        tie_break = "" if column == "number" else ", number"
        return "", f"{column} IS NULL, {column} {direction}{tie_break}", {}
    means = "SELECT episode, avg(value) AS mean FROM rewards WHERE name = :reward GROUP BY episode"
    join = f"LEFT JOIN ({means}) AS means ON means.episode = number"
    return join, f"mean IS NULL, mean {direction}, number", {"reward": escaped(order.reward)}
