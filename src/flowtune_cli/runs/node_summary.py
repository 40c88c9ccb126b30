"""Summarizes what each node has done and learned, from the running totals of the last batch."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from typing import Any

from .batch import UpdateRecord
from .episode_reader import from_row
from .records import MostCommonOutput, NodeSetup, NodeSummary
from .running_totals import COLUMNS, OUTCOME_COLUMNS

LAST_BATCH = "batch = (SELECT max(number) FROM batches)"
"""The rows of the last batch, whose totals are the run's."""

_RECENT_CALLS = 50


def summarize_nodes(connection: sqlite3.Connection) -> list[NodeSummary]:
    """A summary of each node of the task, and of each that was called, in constant time."""
    totals = connection.execute(f"SELECT * FROM node_totals WHERE {LAST_BATCH}").fetchall()
    rows = {row["node"]: dict(row) for row in totals}
    setups = {row["name"]: row for row in connection.execute("SELECT * FROM nodes")}
    never_called = dict.fromkeys(COLUMNS, 0)
    return [
        _summary(connection, rows.get(name, {"node": name, **never_called}), setups.get(name))
        for name in sorted({*rows, *setups})
    ]


def _summary(
    connection: sqlite3.Connection, row: Mapping[str, Any], setup: sqlite3.Row | None
) -> NodeSummary:
    last_update = """
        SELECT * FROM updates WHERE node = ? AND loss IS NOT NULL ORDER BY batch DESC LIMIT 1"""
    update = connection.execute(last_update, (row["node"],)).fetchone()
    decided = row["better"] + row["worse"]
    has_margin = row["margins"] is not None and row["preferences"]
    return NodeSummary(
        node=row["node"],
        steps=row["calls"],
        truncated=row["truncated"],
        **{column: row[column] for column in OUTCOME_COLUMNS.values()},
        preferences=row["preferences"],
        targets=row["targets"],
        mean_margin=row["margins"] / row["preferences"] if has_margin else None,
        win_rate=row["better"] / decided if decided else None,
        last_loss=update["loss"] if update else None,
        tokens=row["tokens"],
        prompt_tokens=row["prompt_tokens"],
        reference_moves=row["reference_moves"],
        last_update=from_row(UpdateRecord, update) if update else None,
        most_common_output=_most_common_output(connection, row["node"]),
        failed_steps=row["failed_calls"],
        **{name: row[name] for name in ("announced", "alternatives", "outputs", "data")},
        unreported=row["unreported"],
        setup=from_row(NodeSetup, setup) if setup else None,
    )


def _most_common_output(connection: sqlite3.Connection, node: str) -> MostCommonOutput | None:
    """Of generated outputs only, which have tokens: chosen labels and candidates often repeat."""
    recent = """
        SELECT output, tokens FROM steps WHERE node = ? AND rollout = 0
        ORDER BY episode DESC, step DESC LIMIT ?"""
    rows = connection.execute(recent, (node, _RECENT_CALLS)).fetchall()
    generated = [row["output"] for row in rows if row["tokens"]]
    if not generated:
        return None
    output, count = Counter(generated).most_common(1)[0]
    return MostCommonOutput(output, count, len(generated))
