"""Reads a run's store, while the run goes on or after; it never writes."""

from __future__ import annotations

import os
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..flow.deviation import Outcome
from ..flow.errors import UsageError
from . import schema
from .batch import MetricRecord, UpdateRecord
from .episode_reader import of_row, read_episode, reward_means
from .node_summary import LATEST, summarize_nodes
from .search import search
from .selecting import condition, ordering
from .sqlite_errors import told
from .stored import (
    Counts,
    EpisodeSummary,
    Filter,
    MetricPoint,
    NodeSummary,
    Order,
    ReferenceUpdate,
    Searched,
    StoredEpisode,
    UpdatePoint,
)
from .totals import ENDED

_EVERY = Filter()
_AS_PLAYED = Order()
_SUMMARY = """
    SELECT number, batch, example_id,
        (SELECT question FROM examples WHERE id = example_id) AS question,
        steps, truncated, dropped_tokens, error, rollouts, preferences, best_gain
    FROM episodes"""


class RunReader:
    """A run's store, open for reading. Each method sees the store as it is at one moment.

    Raises:
        UsageError: there is no store, or it is of a version that cannot be read; says why.
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
        fits, values = condition(where)
        query = f"""
            {_SUMMARY} WHERE {fits}
            ORDER BY number {"DESC" if newest_first else "ASC"} LIMIT :limit OFFSET :offset"""
        with self._moment() as connection:
            rows = connection.execute(query, {**values, "limit": limit, "offset": offset})
            return [_summary(connection, row) for row in rows.fetchall()]

    def numbers(self, where: Filter = _EVERY, order: Order = _AS_PLAYED) -> array[int]:
        """The numbers of the episodes that fit ``where``, in this order; 8 bytes each."""
        fits, values = condition(where)
        join, by, more = ordering(order)
        query = f"SELECT number FROM episodes {join} WHERE {fits} ORDER BY {by}"
        with self._moment() as connection:
            return array("q", (row[0] for row in connection.execute(query, {**values, **more})))

    def summaries(self, numbers: Sequence[int]) -> list[EpisodeSummary]:
        """One line on each of these episodes, in their order; what is not stored is left out."""
        with self._moment() as connection:
            query = f"{_SUMMARY} WHERE number = ?"
            rows = [connection.execute(query, (number,)).fetchone() for number in numbers]
            return [_summary(connection, row) for row in rows if row is not None]

    def search(
        self, text: str, numbers: Sequence[int], *, at_once: int = 100
    ) -> Iterator[Searched]:
        """Look for a text in the questions, prompts, outputs and alternatives of these episodes.

        ASCII letters are found in either case.

        Args:
            at_once: so many episodes are searched from one yield to the next.
        """
        with told(self.path, "search"):
            yield from search(self._connection, text, numbers, at_once)

    def changes(self) -> int:
        """A number that is another one whenever somebody has written since it was asked for."""
        with told(self.path, "read"):
            return self._connection.execute("PRAGMA data_version").fetchone()[0]

    def count(self, where: Filter = _EVERY) -> int:
        """How many episodes fit ``where``."""
        fits, values = condition(where)
        with self._moment() as connection:
            query = f"SELECT count(*) FROM episodes WHERE {fits}"
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

    def metrics(self, points: int | None = None) -> dict[str, list[MetricPoint]]:
        """Each metric's series over the batches.

        Args:
            points: at most about so many batches, evenly spread; ends of windows where there are
                enough, because a window's average is steadiest there. None: all.
        """
        series: dict[str, list[MetricPoint]] = {}
        for row in self._with_batches("metrics", "name", points):
            point = MetricPoint(row["batch"], row["played"], of_row(MetricRecord, row))
            series.setdefault(row["name"], []).append(point)
        return series

    def updates(self, points: int | None = None) -> dict[str, list[UpdatePoint]]:
        """Each node's series of updates over the batches; ``points`` as for ``metrics``."""
        series: dict[str, list[UpdatePoint]] = {}
        for row in self._with_batches("updates", "node", points):
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

    def reference_moves(self, points: int) -> list[int]:
        """How many episodes had been played when references moved: the last time in each stretch.

        Args:
            points: into so many stretches the run is divided.
        """
        query = """
            SELECT first_episode + episodes FROM reference_updates
            JOIN batches ON number = batch
            WHERE moved = 1 AND batch > ? AND batch <= ? ORDER BY batch DESC LIMIT 1"""
        with self._moment() as connection:
            ends = _spread(_batches(connection), points)
            stretches = zip([-1, *ends], ends, strict=False)
            found = [connection.execute(query, stretch).fetchone() for stretch in stretches]
        return [row[0] for row in found if row is not None]

    def timings(self) -> dict[str, float]:
        """Seconds by phase, summed over the run."""
        query = f"SELECT phase, total FROM timings WHERE {LATEST} ORDER BY phase"
        with self._moment() as connection:
            return dict(tuple(row) for row in connection.execute(query))

    def counts(self) -> Counts:
        """The run in numbers."""
        totals = ", ".join(
            f"sum({column})" for column in ("preferences", "targets", *ENDED.values())
        )
        with self._moment() as connection:
            last = "SELECT * FROM batches ORDER BY number DESC LIMIT 1"
            batch = connection.execute(last).fetchone()
            if batch is None:
                return Counts(0, 0, 0, 0, 0, dict.fromkeys(Outcome, 0), 0, 0)
            sums = connection.execute(f"SELECT {totals} FROM node_totals WHERE {LATEST}").fetchone()
        preferences, targets, *ended = (count or 0 for count in sums)
        return Counts(
            batches=batch["number"] + 1,
            episodes=batch["first_episode"] + batch["episodes"],
            failed=batch["total_failed"],
            truncated=batch["total_truncated"],
            shortened=batch["total_shortened"],
            rollouts=dict(zip(ENDED, ended, strict=True)),
            preferences=preferences,
            targets=targets,
        )

    def node_summary(self) -> list[NodeSummary]:
        """What each node that was called has done and learned so far, by name."""
        with self._moment() as connection:
            return summarize_nodes(connection)

    def _with_batches(self, table: str, key: str, points: int | None) -> list[sqlite3.Row]:
        with self._moment() as connection:
            wanted = ""
            if points is not None:
                batches = _sampled(connection, points)
                wanted = f"WHERE batch IN ({','.join(map(str, batches))})"
            query = f"""
                SELECT {table}.*, first_episode + episodes AS played
                FROM {table} JOIN batches ON batches.number = {table}.batch
                {wanted} ORDER BY batch, {key}"""
            return connection.execute(query).fetchall()

    @contextmanager
    def _moment(self) -> Iterator[sqlite3.Connection]:
        with told(self.path, "read"):
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("ROLLBACK")


def _summary(connection: sqlite3.Connection, row: sqlite3.Row) -> EpisodeSummary:
    return EpisodeSummary(rewards=reward_means(connection, row["number"]), **dict(row))


def _batches(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT coalesce(max(number) + 1, 0) FROM batches").fetchone()[0]


def _spread(count: int, points: int) -> list[int]:
    """About so many of the numbers below ``count``, evenly spread, with the last one."""
    return sorted({(number + 1) * count // points - 1 for number in range(points)} - {-1})


def _sampled(connection: sqlite3.Connection, points: int) -> list[int]:
    """The batches that stand for a whole series: windows' ends, if these are enough to see it."""
    count = _batches(connection)
    spread = _spread(count, points)
    last_end = "SELECT max(number) FROM batches WHERE checkpoint = 1 AND number <= ?"
    found = {connection.execute(last_end, (number,)).fetchone()[0] for number in spread}
    ends = sorted(found - {None})
    return (
        [*ends, *(n for n in spread[-1:] if n != ends[-1])] if len(ends) >= points / 2 else spread
    )
