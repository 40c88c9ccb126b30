"""Atomic writes: a file or directory is replaced as a whole, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..flow.errors import FlowtuneError, UsageError


def write_bytes(path: Path, parts: Iterable[bytes]) -> None:
    """Write ``parts``, one after another, to ``path`` through a temporary file beside it.

    Raises:
        FlowtuneError: the file cannot be written; names it. An existing file is kept.
    """
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise FlowtuneError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON to ``path`` through a temporary file beside it.

    Raises:
        FlowtuneError: the file cannot be written; names it. An existing file is kept.
        TypeError: ``value`` is not made of JSON values.
    """
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    # A lone surrogate has no UTF-8 encoding, but it has a JSON escape.
    write_bytes(path, [text.encode("utf-8", "backslashreplace")])


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FlowtuneError: the file cannot be read or is not JSON; names the file and the line.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise FlowtuneError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise FlowtuneError(f"{path} is not JSON: {error}") from error


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[IO[str]]:
    """A text file to write; it appears under its name when the block ends without an error.

    Lone surrogates, which have no UTF-8 encoding, become JSON escapes.

    Raises:
        UsageError: ``path`` exists and ``overwrite`` is false, or it is a directory.
        FlowtuneError: the file cannot be written. An existing file is kept.
    """
    _check_target(path, overwrite=overwrite, directory=False)
    temporary = _temporary(path)
    try:
        try:
            with open(
                temporary, "w", encoding="utf-8", errors="backslashreplace", newline=""
            ) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _check_target(path, overwrite=overwrite, directory=False)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise FlowtuneError(f"cannot write {path}: {error}") from error


@contextmanager
def new_directory(path: Path, *, overwrite: bool, marker: str) -> Iterator[Path]:
    """A directory to fill; it appears under its name when the block ends without an error.

    Args:
        marker: a file that every such directory has. Only an empty directory, or one with this
            file, is overwritten.

    Raises:
        UsageError: ``path`` exists and may not be overwritten.
        FlowtuneError: the directory cannot be written. An existing one is kept.
    """
    _check_target(path, overwrite=overwrite, directory=True)
    if path.is_dir() and any(path.iterdir()) and not (path / marker).is_file():
        raise UsageError(
            f"{path} is not overwritten: it has no {marker}, so flowtune did not make it. Choose"
            " another directory."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            building = temporary / "new"
            building.mkdir()
            yield building
            for file in building.rglob("*"):
                if file.is_file():
                    with file.open("rb") as written:
                        os.fsync(written.fileno())
            if path.exists():
                path.rename(temporary / "old")
            building.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise FlowtuneError(f"cannot write {path}: {error}") from error


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _check_target(path: Path, *, overwrite: bool, directory: bool) -> None:
    exists = path.exists() or path.is_symlink()
    if exists and path.is_dir() != directory:
        what = "is a directory" if path.is_dir() else "is not a directory"
        raise UsageError(f"{path} {what}: choose another name")
    if exists and not overwrite and not (directory and not any(path.iterdir())):
        raise UsageError(f"{path} exists: choose another name, or use --overwrite")
