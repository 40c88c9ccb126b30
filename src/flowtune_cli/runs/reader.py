"""Reads a run's store, during training or afterwards; never writes."""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..flow.deviation import Outcome, wins_name
from ..flow.errors import UsageError
from . import schema
from .batch import MetricRecord, UpdateRecord
from .episode_filter import filter_sql, order_sql
from .episode_json import episode_json
from .episode_reader import from_row, read_episode, reward_means
from .evaluations import Evaluation, best_of, read_evaluations
from .learning_warnings import LearningWarning, learning_warnings
from .node_summary import LAST_BATCH, summarize_nodes
from .read_only import connect_read_only
from .records import (
    Counts,
    EpisodeRecord,
    EpisodeSummary,
    Filter,
    Headline,
    MetricPoint,
    NodeSummary,
    Order,
    SearchProgress,
    UpdatePoint,
)
from .running_totals import OUTCOME_COLUMNS
from .search import search
from .sqlite_errors import translate_errors

_ALL = Filter()
_BY_NUMBER = Order()
_SUMMARY = """
    SELECT number, batch, example_id,
        (SELECT question FROM examples WHERE id = example_id) AS question,
        steps, truncated, dropped_tokens, error, rollouts, preferences, best_gain
    FROM episodes"""


class RunReader:
    """A run's store, open for reading. Each method reads from one snapshot of the store.

    Raises:
        UsageError: there is no store, or it is of another version; says which.
        FlowtuneError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise UsageError(f"there is no store {path}: its run has not written anything yet")
        with translate_errors(path, "read"):
            self._connection = connect_read_only(path)
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

    def numbers(self, where: Filter = _ALL, order: Order = _BY_NUMBER) -> array[int]:
        """The numbers of the episodes that match ``where``, sorted; 8 bytes each."""
        condition, values = filter_sql(where)
        join, by, order_values = order_sql(order)
        query = f"SELECT number FROM episodes {join} WHERE {condition} ORDER BY {by}"
        with self.snapshot() as connection:
            rows = connection.execute(query, {**values, **order_values})
            return array("q", (row[0] for row in rows))

    def summaries(self, numbers: Sequence[int]) -> list[EpisodeSummary]:
        """A summary of each of these episodes, in their order; those not stored are skipped."""
        with self.snapshot() as connection:
            query = f"{_SUMMARY} WHERE number = ?"
            rows = [connection.execute(query, (number,)).fetchone() for number in numbers]
            return [_summary(connection, row) for row in rows if row is not None]

    def search(
        self, text: str, numbers: Sequence[int], *, chunk_size: int = 100
    ) -> Iterator[SearchProgress]:
        """Search the questions, prompts, outputs and alternatives of these episodes for a text.

        The case of ASCII letters is ignored.

        Args:
            chunk_size: the number of episodes searched between two yields.
        """
        with translate_errors(self.path, "search"):
            yield from search(self._connection, text, numbers, chunk_size)

    def changes(self) -> int:
        """A number that changes whenever another process has written to the store."""
        with translate_errors(self.path, "read"):
            return self._connection.execute("PRAGMA data_version").fetchone()[0]

    def episode(self, number: int) -> EpisodeRecord:
        """A whole episode.

        Raises:
            UsageError: it is not stored; says which ones are.
        """
        with self.snapshot() as connection:
            episode = read_episode(connection, number)
            if episode is None:
                last = connection.execute("SELECT max(number) FROM episodes").fetchone()[0]
                stored = "none yet" if last is None else f"0 to {last}"
                raise UsageError(f"{self.path} has no episode {number}; it has {stored}")
            return episode

    def stream_episodes(self) -> Generator[dict[str, Any], None, None]:
        """Every episode as JSON values, see ``episode_json``."""
        with self.snapshot() as connection:
            [last] = connection.execute("SELECT coalesce(max(number), -1) FROM episodes").fetchone()
            for number in range(last + 1):
                episode = read_episode(connection, number)
                assert episode is not None, "episodes are numbered without a gap"
                yield episode_json(episode)

    def metrics(self, points: int | None = None) -> dict[str, list[MetricPoint]]:
        """Each metric's series over the batches.

        Args:
            points: at most about this many batches, evenly spread; ends of windows where there are
                enough of them, since a window's mean is steadiest there. None: all.
        """
        series: dict[str, list[MetricPoint]] = {}
        for row in self._with_batches("metrics", "name", points):
            point = MetricPoint(row["batch"], row["episodes_so_far"], from_row(MetricRecord, row))
            series.setdefault(row["name"], []).append(point)
        return series

    def rewards(self) -> list[str]:
        """The names of all rewards that the flow has reported.

        ``metrics`` has these, and the wins of evaluators, see ``flow.deviation.greedy_wins``.
        """
        with self.snapshot() as connection:
            return _rewards(connection)

    def updates(self, points: int | None = None) -> dict[str, list[UpdatePoint]]:
        """Each node's series of updates over the batches; ``points`` as for ``metrics``."""
        series: dict[str, list[UpdatePoint]] = {}
        for row in self._with_batches("updates", "node", points):
            point = UpdatePoint(row["batch"], row["episodes_so_far"], from_row(UpdateRecord, row))
            series.setdefault(row["node"], []).append(point)
        return series

    def reference_updates(self) -> list[tuple[int, Mapping[str, bool]]]:
        """At the end of each window: episodes so far, and by node whether its reference moved."""
        query = """
            SELECT batch, first_episode + episodes AS episodes, node, moved
            FROM reference_updates JOIN batches ON number = batch ORDER BY batch, node"""
        updates: dict[int, tuple[int, dict[str, bool]]] = {}
        with self.snapshot() as connection:
            for row in connection.execute(query):
                _, moved = updates.setdefault(row["batch"], (row["episodes"], {}))
                moved[row["node"]] = bool(row["moved"])
        return list(updates.values())

    def reference_moves(self, points: int) -> list[int]:
        """The number of episodes at reference moves: the last move in each interval of the run.

        Args:
            points: the number of intervals.
        """
        query = """
            SELECT first_episode + episodes FROM reference_updates
            JOIN batches ON number = batch
            WHERE moved = 1 AND batch > ? AND batch <= ? ORDER BY batch DESC LIMIT 1"""
        with self.snapshot() as connection:
            ends = _spread(_batches(connection), points)
            intervals = zip([-1, *ends], ends, strict=False)
            found = [connection.execute(query, interval).fetchone() for interval in intervals]
        return [row[0] for row in found if row is not None]

    def evaluations(self) -> list[Evaluation]:
        """The evaluations on held-out examples, in the order of training."""
        with self.snapshot() as connection:
            return read_evaluations(connection)

    def timings(self) -> dict[str, float]:
        """Total seconds by phase."""
        query = f"SELECT phase, total FROM timings WHERE {LAST_BATCH} ORDER BY phase"
        with self.snapshot() as connection:
            return dict(tuple(row) for row in connection.execute(query))

    def counts(self) -> Counts:
        """The run's counts."""
        totals = ", ".join(
            f"sum({column})" for column in ("preferences", "targets", *OUTCOME_COLUMNS.values())
        )
        with self.snapshot() as connection:
            last = "SELECT * FROM batches ORDER BY number DESC LIMIT 1"
            batch = connection.execute(last).fetchone()
            if batch is None:
                return Counts(0, 0, 0, 0, 0, dict.fromkeys(Outcome, 0), 0, 0)
            query = f"SELECT {totals} FROM node_totals WHERE {LAST_BATCH}"
            sums = connection.execute(query).fetchone()
        preferences, targets, *outcomes = (count or 0 for count in sums)
        return Counts(
            batches=batch["number"] + 1,
            episodes=batch["first_episode"] + batch["episodes"],
            failed=batch["total_failed"],
            truncated=batch["total_truncated"],
            shortened=batch["total_shortened"],
            rollouts=dict(zip(OUTCOME_COLUMNS, outcomes, strict=True)),
            preferences=preferences,
            targets=targets,
        )

    def node_summary(self) -> list[NodeSummary]:
        """What each node has done and learned so far, by name."""
        with self.snapshot() as connection:
            return summarize_nodes(connection)

    def learning_warnings(self) -> list[LearningWarning]:
        """Which nodes were to learn and have not, and why."""
        with self.snapshot() as connection:
            nodes = summarize_nodes(connection)
            rewards = _rewards(connection)
            gate = _gate(connection)
            episodes = "SELECT coalesce(max(first_episode + episodes), 0) FROM batches"
            [played] = connection.execute(episodes).fetchone()
        return list(learning_warnings(nodes, rewards, gate, played))

    def headline(self) -> Headline | None:
        """The one figure that says how good the run is; None before there is any.

        It is the best evaluation's, else the overall mean of the gate's reward, or of the first.
        """
        best = best_of(self.evaluations())
        if best is not None:
            return Headline(best.metric_name, best.value, "evaluation", best.lower_is_better)
        metrics = self.metrics(1)
        with self.snapshot() as connection:
            gate = _gate(connection)
        name = gate if gate in metrics else next(iter(metrics), None)
        if name is None:
            return None
        return Headline(name, metrics[name][-1].metric.overall, "training")

    def _with_batches(self, table: str, key: str, points: int | None) -> list[sqlite3.Row]:
        with self.snapshot() as connection:
            condition = ""
            if points is not None:
                batches = _sampled(connection, points)
                condition = f"WHERE batch IN ({','.join(map(str, batches))})"
            query = f"""
                SELECT {table}.*, first_episode + episodes AS episodes_so_far
                FROM {table} JOIN batches ON batches.number = {table}.batch
                {condition} ORDER BY batch, {key}"""
            return connection.execute(query).fetchall()

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """The connection in a read transaction: writes of other processes are not seen."""
        with translate_errors(self.path, "read"):
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("ROLLBACK")


def has_data(path: Path) -> bool:
    """Whether a run has written anything to its store.

    Raises:
        FlowtuneError: the file cannot be read.
    """
    if not path.is_file():
        return False
    with translate_errors(path, "read"):
        connection = connect_read_only(path)
        try:
            return not schema.is_empty(connection)
        finally:
            connection.close()


def _summary(connection: sqlite3.Connection, row: sqlite3.Row) -> EpisodeSummary:
    return EpisodeSummary(rewards=reward_means(connection, row["number"]), **dict(row))


def _rewards(connection: sqlite3.Connection) -> list[str]:
    names = f"SELECT name FROM metrics WHERE {LAST_BATCH} ORDER BY name"
    evaluators = connection.execute("SELECT evaluator FROM nodes WHERE evaluator IS NOT NULL")
    wins = {wins_name(row[0]) for row in evaluators}
    return [row[0] for row in connection.execute(names) if row[0] not in wins]


def _gate(connection: sqlite3.Connection) -> str:
    """The reward that decides whether references move; empty where there is none."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'gate'").fetchone()
    return row[0] if row else ""


def _batches(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT coalesce(max(number) + 1, 0) FROM batches").fetchone()[0]


def _spread(count: int, points: int) -> list[int]:
    """About ``points`` of the numbers below ``count``, evenly spread, with the last one."""
    return sorted({(number + 1) * count // points - 1 for number in range(points)} - {-1})


def _sampled(connection: sqlite3.Connection, points: int) -> list[int]:
    """The batches that represent a series: ends of windows, if there are enough of them."""
    count = _batches(connection)
    spread = _spread(count, points)
    last_end = "SELECT max(number) FROM batches WHERE checkpoint = 1 AND number <= ?"
    found = {connection.execute(last_end, (number,)).fetchone()[0] for number in spread}
    ends = sorted(found - {None})
    return (
        [*ends, *(n for n in spread[-1:] if n != ends[-1])] if len(ends) >= points / 2 else spread
    )
