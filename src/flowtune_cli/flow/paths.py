"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path

from .errors import UsageError


def expanded(path: Path) -> Path:
    """The path with its '~' replaced by a home directory.

    Raises:
        UsageError: it is that of a user who is not there.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: there is no such home directory ({error})") from None
