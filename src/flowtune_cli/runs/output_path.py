"""Where output goes: a file that is replaced as a whole, or a device or pipe that is written to."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path
from typing import IO

from ..flow.errors import UsageError

_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/([0-9]+)")
_STANDARD = {"/dev/stdout": 1, "/dev/stderr": 2}


def check_output(path: Path, *, overwrite: bool, directory: bool = False) -> None:
    """Check that output may go to ``path``: a new file, a device or pipe, or one to overwrite.

    Args:
        directory: the output is a directory.

    Raises:
        UsageError: it may not; says why.
    """
    try:
        exists, is_directory, stream = path.exists(), path.is_dir(), is_stream(path)
        parent = path.parent.is_dir()
    except OSError as error:
        raise UsageError(
            f"cannot write {path.absolute()}: {error.strerror}. Choose another name or directory"
        ) from None
    if not exists and not directory and not parent:
        raise UsageError(f"{path.absolute()} is in a directory that does not exist")
    if exists and is_directory != directory:
        what = "is a directory" if is_directory else "is not a directory"
        raise UsageError(f"{path.absolute()} {what}: choose another name")
    if stream or not exists or overwrite or (directory and not any(path.iterdir())):
        return
    raise UsageError(f"{path.absolute()} exists: choose another name, or use --overwrite")


def is_stream(path: Path) -> bool:
    """Whether this is a device, a pipe or an open file of this process, which is not replaced.

    Raises:
        OSError: nothing of this name can be there: it is too long, say.
    """
    if _descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def open_stream(path: Path) -> IO[bytes]:
    """Open a device or pipe to write to. A named pipe waits for its reader.

    Raises:
        OSError: it cannot be opened.
    """
    number = _descriptor(path)
    if number is None:
        return open(path, "wb")
    # Opened by its name, a file that the shell opened would be cut, and a socket refused.
    sys.stdout.flush()
    return open(os.dup(number), "wb")


def replaced(path: Path) -> Path:
    """The file or directory to replace: what a symbolic link leads to, or ``path`` itself."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _descriptor(path: Path) -> int | None:
    name = os.path.abspath(path)
    match = _DESCRIPTOR.fullmatch(name)
    return int(match[1]) if match else _STANDARD.get(name)
