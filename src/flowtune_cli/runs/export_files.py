"""Files and directories that an export makes: whole or not at all, and over nothing unasked."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..flow.errors import FlowtuneError, UsageError


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[IO[str]]:
    """A text file to write, which gets its name when the block ends well.

    Lone surrogates, which have no UTF-8, become their JSON escapes.

    Raises:
        UsageError: there is something of that name, and it is not to be overwritten.
        FlowtuneError: it cannot be written. What was there is there still.
    """
    _refuse(path, overwrite=overwrite, directory=False)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with open(beside, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _refuse(path, overwrite=overwrite, directory=False)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise FlowtuneError(f"cannot write {path}: {error}") from error


@contextmanager
def new_directory(path: Path, *, overwrite: bool, sign: str) -> Iterator[Path]:
    """A directory to fill, which gets its name when the block ends well.

    Args:
        sign: a file that every such directory has. Only a directory that has it, or is empty, is
            overwritten: any other is somebody else's.

    Raises:
        UsageError: there is something of that name, and it is not to be overwritten.
        FlowtuneError: it cannot be written. What was there is there still.
    """
    _refuse(path, overwrite=overwrite, directory=True)
    if path.is_dir() and any(path.iterdir()) and not (path / sign).is_file():
        raise UsageError(
            f"{path} is not overwritten: it has no {sign}, so flowtune did not make it. Give"
            " another directory."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            building = aside / "new"
            building.mkdir()
            yield building
            for file in building.rglob("*"):
                if file.is_file():
                    with file.open("rb") as written:
                        os.fsync(written.fileno())
            if path.exists():
                path.rename(aside / "old")
            building.rename(path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise FlowtuneError(f"cannot write {path}: {error}") from error


def _refuse(path: Path, *, overwrite: bool, directory: bool) -> None:
    there = path.exists() or path.is_symlink()
    if there and path.is_dir() != directory:
        what = "is a directory" if path.is_dir() else "is not a directory"
        raise UsageError(f"{path} {what}: give another name")
    if there and not overwrite and not (directory and not any(path.iterdir())):
        raise UsageError(f"{path} is there already: give another name, or --overwrite")
