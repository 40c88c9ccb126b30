"""What each node has done and learned so far, counted from a run's store."""

from __future__ import annotations

import sqlite3
from typing import Any

from ..flow.deviation import Outcome
from .stored import NodeSummary


def summarize_nodes(connection: sqlite3.Connection) -> list[NodeSummary]:
    """A summary for each node that was called, by name. Reads indexes alone, not the rows."""

    def by_node(select: str) -> dict[str, Any]:
        return {row[0]: row[1] for row in connection.execute(f"{select} GROUP BY node")}

    steps = by_node("SELECT node, count(*) FROM steps WHERE rollout = 0")
    cut = by_node("SELECT node, count(*) FROM steps WHERE truncated = 1 AND substituted = 0")
    cut_alternatives = by_node("SELECT node, count(*) FROM alternatives WHERE truncated = 1")
    preferences = by_node("SELECT node, count(*) FROM preferences")
    margins = by_node("SELECT node, avg(margin) FROM preferences")
    targets = by_node("SELECT node, count(*) FROM targets")
    # SQLite takes the loss from the row that has the greatest batch.
    losses = by_node("SELECT node, loss, max(batch) FROM updates WHERE loss IS NOT NULL")
    counted = "SELECT node, outcome, count(*) FROM rollouts GROUP BY outcome, node"
    outcomes = {(node, outcome): n for node, outcome, n in connection.execute(counted)}

    def summary(node: str) -> NodeSummary:
        ended = {outcome: outcomes.get((node, outcome.value), 0) for outcome in Outcome}
        better, worse = ended[Outcome.ALTERNATIVE_BETTER], ended[Outcome.GREEDY_BETTER]
        return NodeSummary(
            node=node,
            steps=steps.get(node, 0),
            truncated=cut.get(node, 0) + cut_alternatives.get(node, 0),
            better=better,
            worse=worse,
            ties=ended[Outcome.TIE],
            undefined=ended[Outcome.UNDEFINED],
            failed=ended[Outcome.FAILED],
            skipped=ended[Outcome.SKIPPED],
            preferences=preferences.get(node, 0),
            targets=targets.get(node, 0),
            mean_margin=margins.get(node),
            win_rate=better / (better + worse) if better + worse else None,
            last_loss=losses.get(node),
        )

    return [summary(node) for node in sorted({*steps, *cut, *losses})]
