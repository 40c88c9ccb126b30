"""Sizes on disk, and as text."""

from __future__ import annotations

import stat
from contextlib import suppress
from pathlib import Path


def size_of(directory: Path) -> int:
    """The bytes of all files below; a link is not followed, so nothing counts twice."""
    size = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):  # a run that trains deletes some
            found = path.lstat()
            size += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return size


def bytes_text(size: float) -> str:
    """Such as "1.5 GB", "20 MB" or "3 kB"."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
