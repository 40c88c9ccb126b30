"""Opens a store to read: also where nothing can be written beside it, as on a read-only mount."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection that only reads the SQLite file ``path``, which is in write-ahead mode.

    To read in that mode, SQLite makes two files beside the store, ``-wal`` and ``-shm``, unless
    they are there. Where it cannot:

    - Without a ``-wal`` file the store is opened as one that nobody writes to. That is right,
      since whoever writes has such a file until the last of them closes, when all that is in it
      has gone into the store. (A writer that begins later, from where the folder can be written,
      is not noticed: open the store again.)
    - With one, as after a writer was killed, what it holds is read, too: its index, which would be
      ``-shm``, is kept in this process. Again nobody writes: a writer has a ``-shm`` file.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    try:
        return _open(path, "mode=ro")
    except sqlite3.OperationalError as error:
        if "unable to open" not in str(error) or not path.is_file():
            raise
    if not path.with_name(f"{path.name}-wal").exists():
        return _open(path, "immutable=1")
    system = "win32" if sys.platform == "win32" else "unix"
    # A system of files without locks: for the index in this process SQLite wants an exclusive
    # lock, which a file that cannot be written has not.
    return _open(path, f"vfs={system}-none&mode=ro", exclusive=True)


def _open(path: Path, options: str, *, exclusive: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}", uri=True, timeout=10, isolation_level=None
    )
    try:
        if exclusive:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        # SQLite opens its files when something is read.
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection
