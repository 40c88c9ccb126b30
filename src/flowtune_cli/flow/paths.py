"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path
from typing import NewType

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


REMOTE = "hf://"
"""How the id of a data set of Hugging Face begins where a path could stand."""
_SCHEME = "hf:/"

PathText = NewType("PathText", str)
"""A text that begins with a path, such as ``flow.py:run``; or the id of a data set."""


def is_remote(place: str | Path) -> bool:
    """Whether a text names a data set on the hub, and no path.

    A ``Path`` of it has lost one of its slashes.
    """
    return str(place).startswith(_SCHEME)


def place_text(place: str | Path) -> str:
    """The absolute path as a text, or the id of a data set as it was written."""
    if is_remote(place):
        return REMOTE + str(place).removeprefix(_SCHEME).lstrip("/")
    return str(expanded(Path(place)).absolute())
