"""Reads a run's store, while the run goes on or after; it never writes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..flow.deviation import Outcome
from ..flow.errors import UsageError
from . import schema
from .batch import MetricRecord, UpdateRecord
from .episode_reader import of_row, read_episode, reward_means
from .node_summary import summarize_nodes
from .sqlite_errors import told
from .stored import (
    Counts,
    EpisodeSummary,
    Filter,
    MetricPoint,
    NodeSummary,
    ReferenceUpdate,
    StoredEpisode,
    UpdatePoint,
)
from .stored_text import storable

_EVERY = Filter()


class RunReader:
    """A run's store, open for reading. Each method sees the store as it is at one moment.

    Raises:
        UsageError: there is no store, or it is of another version; says why.
        FlowtuneError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise UsageError(f"there is no store {path}: its run has not begun to write")
        mode = "mode=ro"
        beside = path.with_name(f"{path.name}-wal")
        if not os.access(path.parent, os.W_OK) and not beside.exists():
            # SQLite wants files beside a store in write-ahead mode, unless nobody can write it.
            mode = "immutable=1"
        with told(path, "read"):
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=10, isolation_level=None
            )
            self._connection.row_factory = sqlite3.Row
            try:
                schema.check(self._connection, path)
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> RunReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def episodes(
        self,
        offset: int = 0,
        limit: int = 50,
        where: Filter = _EVERY,
        *,
        newest_first: bool = False,
    ) -> list[EpisodeSummary]:
        """A page of the episodes that fit ``where``, in the order in which they were played."""
        condition, values = _condition(where)
        query = f"""
            SELECT number, batch, example_id,
                (SELECT question FROM examples WHERE id = example_id) AS question,
                steps, truncated, dropped_tokens, error,
                (SELECT count(*) FROM rollouts WHERE episode = episodes.number) AS rollouts,
                (SELECT count(*) FROM preferences WHERE episode = episodes.number) AS preferences
            FROM episodes WHERE {condition}
            ORDER BY number {"DESC" if newest_first else "ASC"} LIMIT :limit OFFSET :offset"""
        with self._moment() as connection:
            rows = connection.execute(query, {**values, "limit": limit, "offset": offset})
            return [
                EpisodeSummary(rewards=reward_means(connection, row["number"]), **dict(row))
                for row in rows.fetchall()
            ]

    def count(self, where: Filter = _EVERY) -> int:
        """How many episodes fit ``where``."""
        condition, values = _condition(where)
        with self._moment() as connection:
            query = f"SELECT count(*) FROM episodes WHERE {condition}"
            return connection.execute(query, values).fetchone()[0]

    def episode(self, number: int) -> StoredEpisode:
        """A whole episode.

        Raises:
            UsageError: it is not stored; says which are.
        """
        with self._moment() as connection:
            episode = read_episode(connection, number)
            if episode is None:
                stored = connection.execute("SELECT max(number) FROM episodes").fetchone()[0]
                there = "none yet" if stored is None else f"0 to {stored}"
                raise UsageError(f"{self.path} has no episode {number}; it has {there}")
            return episode

    def metrics(self) -> dict[str, list[MetricPoint]]:
        """Each metric's series over the batches."""
        series: dict[str, list[MetricPoint]] = {}
        for row in self._with_batches("metrics", "name"):
            point = MetricPoint(row["batch"], row["played"], of_row(MetricRecord, row))
            series.setdefault(row["name"], []).append(point)
        return series

    def updates(self) -> dict[str, list[UpdatePoint]]:
        """Each node's series of updates over the batches."""
        series: dict[str, list[UpdatePoint]] = {}
        for row in self._with_batches("updates", "node"):
            point = UpdatePoint(row["batch"], row["played"], of_row(UpdateRecord, row))
            series.setdefault(row["node"], []).append(point)
        return series

    def reference_updates(self) -> list[ReferenceUpdate]:
        """Every decision whether references move."""
        moved: dict[int, dict[str, bool]] = {}
        with self._moment() as connection:
            for row in connection.execute("SELECT * FROM reference_updates ORDER BY batch, node"):
                moved.setdefault(row["batch"], {})[row["node"]] = bool(row["moved"])
        return [ReferenceUpdate(batch, nodes) for batch, nodes in moved.items()]

    def timings(self) -> dict[str, float]:
        """Seconds by phase, summed over the run."""
        query = "SELECT phase, sum(seconds) FROM timings GROUP BY phase ORDER BY phase"
        with self._moment() as connection:
            return dict(connection.execute(query))

    def counts(self) -> Counts:
        """The run in numbers."""
        with self._moment() as connection:

            def one(query: str) -> int:
                return connection.execute(f"SELECT count(*) FROM {query}").fetchone()[0]

            rollouts = "SELECT outcome, count(*) FROM rollouts GROUP BY outcome"
            found = dict(tuple(row) for row in connection.execute(rollouts))
            return Counts(
                batches=one("batches"),
                episodes=one("episodes"),
                failed=one("episodes WHERE error IS NOT NULL"),
                truncated=one("episodes WHERE truncated > 0"),
                shortened=one("episodes WHERE dropped_tokens > 0"),
                rollouts={outcome: found.get(outcome.value, 0) for outcome in Outcome},
                preferences=one("preferences"),
                targets=one("targets"),
            )

    def node_summary(self) -> list[NodeSummary]:
        """What each node that was called has done and learned so far, by name."""
        with self._moment() as connection:
            return summarize_nodes(connection)

    def _with_batches(self, table: str, key: str) -> list[sqlite3.Row]:
        query = f"""
            SELECT {table}.*, first_episode + episodes AS played
            FROM {table} JOIN batches ON batches.number = {table}.batch
            ORDER BY batch, {key}"""
        with self._moment() as connection:
            return connection.execute(query).fetchall()

    @contextmanager
    def _moment(self) -> Iterator[sqlite3.Connection]:
        with told(self.path, "read"):
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("ROLLBACK")


def _condition(where: Filter) -> tuple[str, dict[str, Any]]:
    """The SQL for a filter, on the table ``episodes``, and its values."""
    conditions, values = ["1"], {}
    if where.outcome is not None:
        of_node = "" if where.node is None else "AND node = :node"
        rollouts = f"SELECT episode FROM rollouts WHERE outcome = :outcome {of_node}"
        conditions.append(f"number IN ({rollouts})")
        values["outcome"] = where.outcome.value
    elif where.node is not None:
        steps = "SELECT episode FROM steps WHERE node = :node AND rollout = 0"
        conditions.append(f"number IN ({steps})")
    if where.node is not None:
        values["node"] = where.node
    if where.failed is not None:
        conditions.append(f"error IS {'NOT ' if where.failed else ''}NULL")
    if where.example_id is not None:
        conditions.append("example_id = :example_id")
        values["example_id"] = storable(where.example_id)
    return " AND ".join(conditions), values
