"""The code of a plugin's task: whether it is still what a run was made with."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from ..flow.task import Task

_MOST_FILES = 1000
"""A package of more is no plugin's own: then the module of the task alone counts."""


def code_place(task: type[Task]) -> Path | None:
    """The package that a task's class is in, or else its file; None where there is no file."""
    name = task.__module__
    found = getattr(sys.modules.get(name), "__file__", None)
    package = sys.modules.get(name.partition(".")[0])
    root = getattr(package, "__file__", None)
    if root is not None and hasattr(package, "__path__"):
        directory = Path(root).parent
        if len(_files(directory)) <= _MOST_FILES:
            return directory
    return None if found is None else Path(found)


def code_digest(task: type[Task]) -> str | None:
    """SHA-256 of the Python files there, their names included; None if they cannot be read."""
    place = code_place(task)
    if place is None:
        return None
    whole = hashlib.sha256()
    try:
        for path in _files(place) if place.is_dir() else [place]:
            whole.update(f"{path.relative_to(place)}\0".encode("utf-8", "surrogatepass"))
            whole.update(hashlib.sha256(path.read_bytes()).digest())
    except OSError:
        return None
    return whole.hexdigest()


def _files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.py"))
