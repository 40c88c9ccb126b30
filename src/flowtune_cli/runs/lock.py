"""File locks, which the operating system releases when their process ends."""

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

# ``is_locked`` takes the lock for a moment, so a single failure to lock means nothing.
_ATTEMPTS = 10
_PAUSE_SECONDS = 0.02

if sys.platform == "win32":
    import msvcrt

    # Windows lets nobody read a locked byte: lock one after the content of the file.
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
        """Lock an open file until it is closed; False if another process has locked it.

        Raises:
            OSError: the file system has no locks.
        """
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def exclusive_lock(path: Path, what: str) -> Iterator[None]:
    """Lock the file ``path`` during the block, and write process and host into it.

    Args:
        what: names what is locked in the error, such as "run 'a'".

    Raises:
        UsageError: another process has locked it; says which, on which host.
        FlowtuneError: the file cannot be opened or locked.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _cannot_lock(path, error) from error
    try:
        for attempt in range(_ATTEMPTS):
            try:
                if try_lock(fd):
                    break
            except OSError as error:
                raise _cannot_lock(path, error) from error
            if attempt + 1 < _ATTEMPTS:
                time.sleep(_PAUSE_SECONDS)
        else:
            raise UsageError(
                f"{what} is in use by {_owner(path)}. Wait until it has finished, or stop it."
            )
        owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        try:
            os.ftruncate(fd, 0)
            os.write(fd, owner.encode())
        except OSError as error:
            raise _cannot_lock(path, error) from error
        try:
            yield
        finally:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


@contextmanager
def brief_lock(path: Path, seconds: float = 10.0) -> Iterator[None]:
    """Lock the file ``path`` during the block, after those who have it: each for a moment alone.

    Args:
        seconds: how long they may take.

    Raises:
        FlowtuneError: the file cannot be opened or locked, or one of them goes on and on.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _cannot_lock(path, error) from error
    try:
        end = time.monotonic() + seconds
        try:
            while not try_lock(fd):
                if time.monotonic() > end:
                    raise FlowtuneError(f"{path} is locked by another process that does not end")
                time.sleep(_PAUSE_SECONDS)
        except OSError as error:
            raise _cannot_lock(path, error) from error
        yield
    finally:
        os.close(fd)


def is_locked(path: Path) -> bool:
    """Whether a running process has locked the file ``path``.

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


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_bytes())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"  # which has not written its number yet


def _cannot_lock(path: Path, error: OSError) -> FlowtuneError:
    return FlowtuneError(
        f"cannot lock {path}: {error.strerror or error}. Keep runs on a writable file system that"
        " has free space and supports file locks."
    )
