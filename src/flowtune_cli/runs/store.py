"""Writes a run's store: one transaction per mini-batch, so a crash leaves whole batches.

The store is a SQLite file in write-ahead mode, which other processes can read (``reader.py``) at
the same time.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ..flow.errors import FlowtuneError
from ..flow.example import Example
from ..flow.named import name_and_options
from ..flow.node import Node
from ..flow.surrogates import escaped
from . import running_totals, schema
from .batch import BatchRecord, MetricRecord, Row, UpdateRecord, batch_rows
from .evaluations import Evaluation, evaluation_rows, read_evaluations
from .read_only import connect_read_only
from .sqlite_errors import translate_errors

_SETUP = ("learn", "reward", "alternatives", "weight")

__all__ = ["BatchRecord", "MetricRecord", "Store", "UpdateRecord"]


def check_version(path: Path) -> None:
    """Check that a store can be gone on with. One that is missing or empty can: nothing is in it.

    Raises:
        UsageError: another version wrote it, or it is no store.
        FlowtuneError: it cannot be read.
    """
    if not path.exists():
        return
    with translate_errors(path, "read"), closing(connect_read_only(path)) as connection:
        if not schema.is_empty(connection):
            schema.check(connection, path)


class Store:
    """A run's store, open for writing. The run's lock keeps it to one writer.

    Args:
        path: the SQLite file; created with its tables if it does not exist.
        question_of: shows an example in one line.

    Raises:
        UsageError: the file is of another version, or not a store.
        FlowtuneError: the file cannot be written.
    """

    def __init__(self, path: Path, question_of: Callable[[Example], str]) -> None:
        self.path = path
        self._question_of = question_of
        with translate_errors(path, "open"):
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            try:
                if self._one("PRAGMA journal_mode = WAL") != "wal":
                    raise FlowtuneError(
                        f"the file system of {path} does not allow SQLite's write-ahead mode."
                        " Keep runs on a local disk."
                    )
                if schema.is_empty(self._connection):
                    schema.create(self._connection)
                schema.check(self._connection, path)
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    @property
    def batches(self) -> int:
        """How many batches are stored; they are numbered from 0 without a gap."""
        return self._one("SELECT coalesce(max(number) + 1, 0) FROM batches")

    @property
    def episodes(self) -> int:
        """How many episodes are stored; they are numbered from 0 without a gap."""
        return self._one("SELECT coalesce(max(number) + 1, 0) FROM episodes")

    def write_task(self, nodes: Sequence[Node], gate: str | None) -> None:
        """Store what the task's nodes learn from, in place of what an earlier process stored.

        Args:
            gate: the reward that gates reference updates.
        """
        with translate_errors(self.path, "write"), self._transaction():
            self._connection.execute("DELETE FROM nodes")
            for node in nodes:
                evaluator = node.evaluator and name_and_options(node.evaluator)[0]
                own = {name: getattr(node, name) for name in _SETUP}
                self._insert("nodes", {"name": node.name, "evaluator": evaluator, **own})
            gated = "INSERT OR REPLACE INTO meta VALUES ('gate', ?)"
            self._connection.execute(gated, (gate or "",))

    def write_batch(self, record: BatchRecord) -> None:
        """Store a batch, all of it or nothing.

        A batch with a checkpoint is durable when this returns; others may be lost in a power
        failure, the latest first.

        Raises:
            FlowtuneError: the file cannot be written, or a number is NaN.
            ValueError: the batch, or its first episode, is not the next one.
        """
        action = f"write batch {record.batch} to"
        with translate_errors(self.path, action), self._transaction(durable=record.checkpoint):
            for kind, number, expected in (
                ("batch", record.batch, self.batches),
                ("episode", record.position, self.episodes),
            ):
                if number != expected:
                    raise ValueError(f"{self.path}: got {kind} {number}, expected {expected}")
            for table, row in self._rows(record):
                self._insert(table, row)

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Store an evaluation of the checkpoint after the last batch, all of it or nothing.

        Raises:
            FlowtuneError: the file cannot be written, or a figure is NaN.
            ValueError: it is not of the last batch.
        """
        with translate_errors(self.path, "write an evaluation to"), self._transaction(durable=True):
            stored = self.batches
            if evaluation.batch != stored:
                raise ValueError(f"{self.path}: evaluated batch {evaluation.batch}, not {stored}")
            for table, row in evaluation_rows(evaluation):
                self._insert(table, row)

    def evaluations(self) -> list[Evaluation]:
        """All evaluations, in the order of training."""
        with translate_errors(self.path, "read"):
            return read_evaluations(self._connection)

    def truncate(self, batches: int) -> None:
        """Delete all but the first ``batches`` batches, as if no others had been written.

        Raises:
            FlowtuneError: fewer are stored, or the file cannot be written.
        """
        stored = self.batches
        if stored < batches:
            raise FlowtuneError(
                f"{self.path} has {stored} batches, but the checkpoint was made after {batches}:"
                " the rest was lost, for example in a power failure, or the file was replaced."
                " Resume from an earlier checkpoint, or start the run again."
            )
        with translate_errors(self.path, "write"), self._transaction():
            first = "SELECT coalesce(min(first_episode), 0) FROM batches WHERE number >= ?"
            episode = self._one(first, batches)
            for table in schema.AFTER_BATCH:
                self._connection.execute(f"DELETE FROM {table} WHERE batch > ?", (batches,))
            if stored > batches:
                for table in schema.BY_EPISODE:
                    self._connection.execute(f"DELETE FROM {table} WHERE episode >= ?", (episode,))
                for table, column in schema.BY_BATCH.items():
                    self._connection.execute(f"DELETE FROM {table} WHERE {column} >= ?", (batches,))

    def _rows(self, record: BatchRecord) -> Iterator[Row]:
        """All rows of a batch, with the running totals after it."""

        def previous(table: str, column: str = "batch") -> list[dict[str, Any]]:
            query = f"SELECT * FROM {table} WHERE {column} = ?"
            return list(map(dict, self._connection.execute(query, (record.batch - 1,))))

        last = next(iter(previous("batches", "number")), {})
        yield from batch_rows(record, self._question_of, last)
        by_node = {row["node"]: row for row in previous("node_totals")}
        yield from running_totals.node_rows(record, by_node)
        timings = {row["phase"]: row["total"] for row in previous("timings")}
        yield from running_totals.timing_rows(record, timings)

    def _insert(self, table: str, row: Mapping[str, Any]) -> None:
        for column, value in row.items():
            if isinstance(value, float) and math.isnan(value):
                # SQLite would store NULL, which means undefined.
                raise FlowtuneError(
                    f"{self.path} cannot store NaN as '{column}' of {table}: {row}. Report an"
                    " undefined reward as None; for a NaN loss, lower the learning rate."
                )
        row = {name: escaped(v) if isinstance(v, str) else v for name, v in row.items()}
        columns, values = ", ".join(row), ", ".join(f":{column}" for column in row)
        on_conflict = "ON CONFLICT DO NOTHING" if table in ("texts", "examples") else ""
        self._connection.execute(
            f"INSERT INTO {table} ({columns}) VALUES ({values}) {on_conflict}", row
        )

    def _one(self, query: str, *values: Any) -> Any:
        with translate_errors(self.path, "read"):
            return self._connection.execute(query, values).fetchone()[0]

    @contextmanager
    def _transaction(self, *, durable: bool = False) -> Iterator[None]:
        self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # A full disk may have rolled back already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
