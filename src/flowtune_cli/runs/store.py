"""Writes a run's store: one transaction a mini-batch, so that whatever stops it leaves whole ones.

The store is a SQLite file in write-ahead mode, which others may read (``reader.py``) meanwhile.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..flow.errors import FlowtuneError
from ..flow.example import Example
from . import schema, totals
from .batch import BatchRecord, MetricRecord, Row, UpdateRecord, rows
from .sqlite_errors import told

__all__ = ["BatchRecord", "MetricRecord", "Store", "UpdateRecord"]


class Store:
    """A run's store, open for writing. The run's lock keeps it to one writer.

    Args:
        path: the SQLite file; created with its tables if it does not exist.
        question_of: how an example is shown in one line.

    Raises:
        UsageError: the file is of another version, or not a store.
        FlowtuneError: the file cannot be written.
    """

    def __init__(self, path: Path, question_of: Callable[[Example], str]) -> None:
        self.path = path
        self._question_of = question_of
        with told(path, "open"):
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

    def write_batch(self, record: BatchRecord) -> None:
        """Store a batch as a whole or, whatever happens, not at all.

        A batch with a checkpoint is on the disk for good when this returns; others may be lost
        when the power fails, the latest first.

        Raises:
            FlowtuneError: the disk is full, or the like; or a number is NaN.
            ValueError: it is not the batch, or not the episodes, that come next.
        """
        doing = f"write batch {record.batch} to"
        with told(self.path, doing), self._transaction(for_good=record.checkpoint):
            for what, given, next_one in (
                ("batch", record.batch, self.batches),
                ("episode", record.position, self.episodes),
            ):
                if given != next_one:
                    raise ValueError(
                        f"{self.path} was given {what} {given}, and {next_one} comes next"
                    )
            for table, row in self._rows(record):
                self._insert(table, row)

    def truncate(self, batches: int) -> None:
        """Keep the first ``batches`` batches alone, as if no other had been written.

        Raises:
            FlowtuneError: fewer are stored, or the file cannot be written.
        """
        stored = self.batches
        if stored < batches:
            raise FlowtuneError(
                f"{self.path} holds {stored} batches, and the run is to go on after {batches}:"
                " the rest is lost, as when the power failed or the file was replaced. Go on from"
                " an earlier checkpoint, or begin the run anew."
            )
        with told(self.path, "write"), self._transaction():
            first = "SELECT coalesce(min(first_episode), 0) FROM batches WHERE number >= ?"
            episode = self._one(first, batches)
            if stored > batches:
                for table in schema.BY_EPISODE:
                    self._connection.execute(f"DELETE FROM {table} WHERE episode >= ?", (episode,))
                for table, column in schema.BY_BATCH.items():
                    self._connection.execute(f"DELETE FROM {table} WHERE {column} >= ?", (batches,))

    def _rows(self, record: BatchRecord) -> Iterator[Row]:
        """All rows of a batch, with the totals that go on from those of the batch before it."""

        def before(table: str, column: str = "batch") -> list[dict[str, Any]]:
            query = f"SELECT * FROM {table} WHERE {column} = ?"
            return list(map(dict, self._connection.execute(query, (record.batch - 1,))))

        yield from rows(record, self._question_of, next(iter(before("batches", "number")), {}))
        yield from totals.rows(record, {row["node"]: row for row in before("node_totals")})
        timings = {row["phase"]: row["total"] for row in before("timings")}
        yield from totals.timing_rows(record, timings)

    def _insert(self, table: str, row: Mapping[str, Any]) -> None:
        for column, value in row.items():
            if isinstance(value, float) and math.isnan(value):
                # SQLite would store it as NULL, which means undefined.
                raise FlowtuneError(
                    f"{self.path} cannot hold NaN as '{column}' of {table}: {row}. State a reward"
                    " that cannot be told as None; a loss that is NaN asks for smaller steps."
                )
        columns, values = ", ".join(row), ", ".join(f":{column}" for column in row)
        known_already = "ON CONFLICT DO NOTHING" if table in ("texts", "examples") else ""
        self._connection.execute(
            f"INSERT INTO {table} ({columns}) VALUES ({values}) {known_already}", row
        )

    def _one(self, query: str, *values: Any) -> Any:
        with told(self.path, "read"):
            return self._connection.execute(query, values).fetchone()[0]

    @contextmanager
    def _transaction(self, *, for_good: bool = False) -> Iterator[None]:
        self._connection.execute(f"PRAGMA synchronous = {'FULL' if for_good else 'NORMAL'}")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # A full disk may have rolled back already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
