"""File locks: one process works on a thing, and the lock dies with that process."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..flow.errors import FlowtuneError, UsageError

# Whoever looks whether a lock is held takes it for a moment, so one refusal says nothing yet.
_TRIES = 10
_PAUSE = 0.02

if sys.platform == "win32":
    import msvcrt

    # Windows keeps others from reading a locked byte: lock one behind what the file says.
    _BYTE = 1 << 30

    def try_lock(fd: int, *, shared: bool = False) -> bool:
        os.lseek(fd, _BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(fd, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def try_lock(fd: int, *, shared: bool = False) -> bool:
        """Lock an open file until it is closed, or say that somebody else holds it.

        Raises:
            OSError: the file system knows no locks.
        """
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file ``path``, which says meanwhile who holds it.

    Args:
        what: names the thing in the error, such as "run 'a'".

    Raises:
        UsageError: another process holds it; says which, on which host.
        FlowtuneError: the file cannot be opened or locked.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _cannot_lock(path, error) from error
    try:
        for attempt in range(_TRIES):
            try:
                if try_lock(fd):
                    break
            except OSError as error:
                raise _cannot_lock(path, error) from error
            if attempt + 1 < _TRIES:
                time.sleep(_PAUSE)
        else:
            raise UsageError(
                f"{what} is in use by {_holder(path)}. Wait until it has ended, or stop it."
            )
        holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        try:
            os.ftruncate(fd, 0)
            os.write(fd, holder.encode())
        except OSError as error:
            raise _cannot_lock(path, error) from error
        try:
            yield
        finally:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def is_held(path: Path) -> bool:
    """Whether a process that is alive holds the lock file ``path``.

    Raises:
        FlowtuneError: the file cannot be opened or locked.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _cannot_lock(path, error) from error
    try:
        return not try_lock(fd, shared=True)
    except OSError as error:
        raise _cannot_lock(path, error) from error
    finally:
        os.close(fd)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"  # which has the lock, and has not yet said so


def _cannot_lock(path: Path, error: OSError) -> FlowtuneError:
    return FlowtuneError(
        f"cannot lock {path}: {error.strerror or error}. Keep runs where there is room, where"
        " you may write, and where the file system has locks."
    )
