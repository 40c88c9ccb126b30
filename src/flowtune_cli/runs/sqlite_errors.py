"""Turns SQLite's errors into errors that name the file and say what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..flow.errors import FlowtuneError

_RESUME = "All earlier batches are stored: then continue the run with --resume."
_ADVICE = {
    "full": f"The disk is full, or a quota is used up. Free some space. {_RESUME}",
    "disk i/o error": (
        "The disk is full or failing, or a limit on file sizes is reached (see df and ulimit -f)."
        f" {_RESUME}"
    ),
    "readonly": "The file or its directory is read-only. Make both writable for this user.",
    "unable to open": "The file and its directory must exist and be writable for this user.",
    "locked": "Another process is writing to it. Wait until it has finished, or stop it.",
    "malformed": "The file is damaged. Restore it from a backup, or start the run again.",
    "not a database": "The file is not a store, or is damaged.",
}
"""Advice, by a text in SQLite's message."""


@contextmanager
def translate_errors(path: Path, action: str) -> Iterator[None]:
    """Turn SQLite's errors in this block into a ``FlowtuneError``.

    Args:
        path: the database.
        action: what failed, as a verb: "write".

    Raises:
        FlowtuneError: SQLite failed.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        if isinstance(error, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):
            raise
        text = str(error).lower()
        advice = next((advice for sign, advice in _ADVICE.items() if sign in text), "")
        raise FlowtuneError(f"cannot {action} {path}: {error}. {advice}".rstrip()) from error
