"""What each node has done and learned so far, from the totals that a run's last batch holds."""

from __future__ import annotations

import sqlite3
from collections import Counter

from .batch import UpdateRecord
from .episode_reader import of_row
from .stored import Commonest, NodeSummary
from .totals import ENDED

LATEST = "batch = (SELECT max(number) FROM batches)"
"""The rows of the last batch, whose totals are the run's."""

_CALLS = 50
"""How many of a node's calls are its latest."""


def summarize_nodes(connection: sqlite3.Connection) -> list[NodeSummary]:
    """A summary for each node that was called or updated, by name, in time that does not grow."""
    totals = connection.execute(f"SELECT * FROM node_totals WHERE {LATEST} ORDER BY node")
    return [_summary(connection, row) for row in totals.fetchall()]


def _summary(connection: sqlite3.Connection, row: sqlite3.Row) -> NodeSummary:
    latest = """
        SELECT * FROM updates WHERE node = ? AND loss IS NOT NULL ORDER BY batch DESC LIMIT 1"""
    update = connection.execute(latest, (row["node"],)).fetchone()
    decided = row["better"] + row["worse"]
    known = row["margins"] is not None and row["preferences"]
    return NodeSummary(
        node=row["node"],
        steps=row["calls"],
        truncated=row["truncated"],
        **{column: row[column] for column in ENDED.values()},
        preferences=row["preferences"],
        targets=row["targets"],
        mean_margin=row["margins"] / row["preferences"] if known else None,
        win_rate=row["better"] / decided if decided else None,
        last_loss=update["loss"] if update else None,
        tokens=row["tokens"],
        prompt_tokens=row["prompt_tokens"],
        reference_moves=row["reference_moves"],
        last_update=of_row(UpdateRecord, update) if update else None,
        commonest=_commonest(connection, row["node"]),
    )


def _commonest(connection: sqlite3.Connection, node: str) -> Commonest | None:
    """Only what is written has tokens: labels and candidates are chosen, and may well be alike."""
    latest = """
        SELECT output, tokens FROM steps WHERE node = ? AND rollout = 0
        ORDER BY episode DESC, step DESC LIMIT ?"""
    rows = connection.execute(latest, (node, _CALLS)).fetchall()
    written = [row["output"] for row in rows if row["tokens"]]
    if not written:
        return None
    output, times = Counter(written).most_common(1)[0]
    return Commonest(output, times, len(written))
