"""Stores of version 1, which lack totals: read through views, or brought to this version to go on.

The views stand in a reader's own connection and have the names of the tables, so that the reader
asks every store the same. They count the rows anew each time, which takes longer the more there
are.
"""

from __future__ import annotations

import sqlite3

from .totals import COLUMNS, ENDED

OLDEST_VERSION = 1
"""Older ones than this were never released."""

_EPISODES = {
    "rollouts": "(SELECT count(*) FROM rollouts WHERE episode = e.number)",
    "preferences": "(SELECT count(*) FROM preferences WHERE episode = e.number)",
    "best_gain": "(SELECT max(gain) FROM rollouts WHERE episode = e.number)",
}
_BATCHES = {
    "total_failed": "error IS NOT NULL",
    "total_truncated": "truncated > 0",
    "total_shortened": "dropped_tokens > 0",
}


def _events(source: str, **values: str) -> str:
    """A select with a row for each thing counted, and 0 for what it does not count as."""
    assert values.keys() <= set(COLUMNS)
    columns = ", ".join(values.get(column, "0") for column in COLUMNS)
    return f"SELECT batch, node, {columns} FROM {source}"


def _with_batch(table: str) -> str:
    return f"{table} AS t JOIN main.episodes AS e ON e.number = t.episode"


_NODE_TOTALS = f"""
    WITH events (batch, node, {", ".join(COLUMNS)}) AS (
        {
    " UNION ALL ".join(
        (
            _events(
                f"{_with_batch('steps')} WHERE substituted = 0",
                calls="rollout = 0",
                truncated="t.truncated",
                prompt_tokens="prompt_tokens",
                tokens="tokens",
            ),
            _events(_with_batch("alternatives"), truncated="t.truncated", tokens="tokens"),
            _events(
                _with_batch("rollouts"),
                **{column: f"outcome = '{outcome.value}'" for outcome, column in ENDED.items()},
            ),
            _events(_with_batch("preferences"), preferences="1", margins="margin"),
            _events(_with_batch("targets"), targets="1"),
            _events("updates"),
            _events("reference_updates", reference_moves="moved"),
        )
    )
}),
    sums AS (
        SELECT batch, node, {", ".join(f"sum({column}) AS {column}" for column in COLUMNS)}
        FROM events GROUP BY batch, node
    ),
    nodes AS (SELECT node, min(batch) AS first FROM sums GROUP BY node)
    SELECT number AS batch, nodes.node, {
    ", ".join(f"sum(coalesce({column}, 0)) OVER so_far AS {column}" for column in COLUMNS)
}
    FROM nodes JOIN main.batches ON number >= first
    LEFT JOIN sums ON sums.batch = number AND sums.node = nodes.node
    WINDOW so_far AS (PARTITION BY nodes.node ORDER BY number)"""


def _also(columns: dict[str, str]) -> str:
    return ", ".join(f"{query} AS {name}" for name, query in columns.items())


_VIEWS = {
    "episodes": f"SELECT e.*, {_also(_EPISODES)} FROM main.episodes AS e",
    "batches": f"""
        SELECT b.*, {_also({c: f"sum(coalesce({c}, 0)) OVER (ORDER BY number)" for c in _BATCHES})}
        FROM main.batches AS b LEFT JOIN (
            SELECT batch, {_also({c: f"sum({condition})" for c, condition in _BATCHES.items()})}
            FROM main.episodes GROUP BY batch
        ) AS e ON e.batch = b.number""",
    "timings": "SELECT *, sum(seconds) OVER (PARTITION BY phase ORDER BY batch) AS total"
    " FROM main.timings",
    "node_totals": _NODE_TOTALS,
}


def view_as_new(connection: sqlite3.Connection) -> None:
    """Let a reader of a version 1 store see the tables of this version. Writes nothing."""
    for name, select in _VIEWS.items():
        connection.execute(f"CREATE TEMP VIEW {name} AS {select}")


def upgrade(connection: sqlite3.Connection, schema: str, version: int) -> None:
    """Bring a version 1 store to this version, as a whole or not at all.

    Args:
        schema: the SQL that makes all tables and indexes of this version.
    """
    missing = schema.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS")
    missing = missing.replace("CREATE INDEX", "CREATE INDEX IF NOT EXISTS")
    changes = ["BEGIN IMMEDIATE"]
    changes += [f"CREATE TEMP TABLE new_{t} AS {select}" for t, select in _VIEWS.items()]
    changes += [f"DROP TABLE IF EXISTS main.{table}" for table in _VIEWS]
    changes += [missing.rstrip("; \n")]
    for table in _VIEWS:
        changes += [f"INSERT INTO {table} SELECT * FROM new_{table}", f"DROP TABLE new_{table}"]
    changes += [f"UPDATE meta SET value = '{version}' WHERE key = 'schema_version'", "COMMIT"]
    try:
        connection.executescript(";\n".join(changes))
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
