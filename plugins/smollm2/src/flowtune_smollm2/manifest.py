"""The manifest of a converted model: sizes and sums of its files, so that damage is noticed.

Sizes are compared at every start; reading half a gigabyte for the sums is for when it is asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

NAME = "manifest.json"


class File(NamedTuple):
    """What the manifest says about a file."""

    size: int
    sha256: str


def write_manifest(directory: Path, source: str) -> None:
    """Record every file of the directory, and bring all of it to the disk.

    Args:
        source: the SHA-256 of what the files were made from.
    """
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(directory.iterdir())
    }
    text = json.dumps({"source": source, "files": files}, indent=2)
    (directory / NAME).write_text(text + "\n", encoding="utf-8")
    for path in directory.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def is_complete(directory: Path) -> bool:
    """Whether every file that the manifest lists is there, and of the right size."""
    files = _read(directory)
    return bool(files) and all(
        (directory / name).is_file() and (directory / name).stat().st_size == file.size
        for name, file in files.items()
    )


def is_intact(directory: Path) -> bool:
    """Whether every file is the same to the last byte as when it was written."""
    return is_complete(directory) and all(
        sha256(directory / name) == file.sha256 for name, file in _read(directory).items()
    )


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read(directory: Path) -> dict[str, File]:
    """The files that the manifest lists; none if it cannot be read."""
    try:
        files = json.loads((directory / NAME).read_text(encoding="utf-8"))["files"]
        return {name: File(entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
