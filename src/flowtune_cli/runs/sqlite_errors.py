"""What SQLite's errors mean to a person: which file, and what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..flow.errors import FlowtuneError

_GO_ON = "Every batch before this one is stored: then go on with the run by --resume."
_ADVICE = {
    "full": f"The disk is full, or a quota is used up. Make room. {_GO_ON}",
    "disk i/o error": (
        "The disk is full or failing, or a limit on file sizes is reached (see df and ulimit -f)."
        f" {_GO_ON}"
    ),
    "readonly": "The file or its directory is read-only. Make both writable for this user.",
    "unable to open": "The file and its directory must be there, and writable for this user.",
    "locked": "Another process writes to it. Wait until it has ended, or stop it.",
    "malformed": "The file is damaged. Restore it from a copy, or begin the run anew.",
    "not a database": "The file is not a store, or is damaged.",
}


@contextmanager
def told(path: Path, doing: str) -> Iterator[None]:
    """Turn SQLite's errors into one that names the file and says what to do.

    Args:
        doing: what failed, such as "write".

    Raises:
        FlowtuneError: SQLite failed.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        if isinstance(error, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):
            raise
        what = str(error).lower()
        advice = next((advice for sign, advice in _ADVICE.items() if sign in what), "")
        raise FlowtuneError(f"cannot {doing} {path}: {error}. {advice}".rstrip()) from error
