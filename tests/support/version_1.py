"""Stores as flowtune wrote them before it kept totals."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def downgrade(path: Path) -> None:
    """Take from a store what version 1 did not have."""
    with sqlite3.connect(path) as connection:
        connection.executescript(
            """
            DROP TABLE node_totals;
            DROP INDEX batches_with_checkpoint;
            DROP INDEX updates_with_loss;
            DROP INDEX references_moved;
            ALTER TABLE batches DROP COLUMN total_failed;
            ALTER TABLE batches DROP COLUMN total_truncated;
            ALTER TABLE batches DROP COLUMN total_shortened;
            ALTER TABLE episodes DROP COLUMN rollouts;
            ALTER TABLE episodes DROP COLUMN preferences;
            ALTER TABLE episodes DROP COLUMN best_gain;
            ALTER TABLE timings DROP COLUMN total;
            UPDATE meta SET value = '1' WHERE key = 'schema_version';
            """
        )
    connection.close()
