"""Atomic writes: a file or directory is replaced as a whole, or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

from ..flow.errors import FlowtuneError, UsageError
from .output_path import check_output, is_stream, open_stream, replaced


def write_bytes(path: Path, parts: Iterable[bytes]) -> None:
    """Write ``parts``, one after another, to ``path`` through a temporary file beside it.

    Where ``path`` is a symbolic link, what it leads to is replaced; a device or pipe is written to.

    Raises:
        FlowtuneError: the file cannot be written; names it. An existing file is kept.
    """
    with _written(path) as file:
        for part in parts:
            file.write(part)


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
        raise FlowtuneError(f"cannot read {path.absolute()}: {error.strerror or error}") from error
    except ValueError as error:
        raise FlowtuneError(f"{path.absolute()} is not JSON: {error}") from error


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[IO[str]]:
    """A text file to write; it appears under its name when the block ends without an error.

    Lone surrogates, which have no UTF-8 encoding, become JSON escapes. Links, devices and pipes as
    for ``write_bytes``.

    Raises:
        UsageError: ``path`` exists and ``overwrite`` is false, or it is a directory.
        FlowtuneError: the file cannot be written. An existing file is kept.
    """

    def check() -> None:
        check_output(path, overwrite=overwrite)

    check()
    with _written(path, check) as file:
        text = TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        yield text
        text.flush()
        text.detach()


@contextmanager
def new_directory(path: Path, *, overwrite: bool, marker: str) -> Iterator[Path]:
    """A directory to fill; it appears under its name when the block ends without an error.

    Where ``path`` is a symbolic link, the directory that it leads to is replaced.

    Args:
        marker: a file that every such directory has. Only an empty directory, or one with this
            file, is overwritten.

    Raises:
        UsageError: ``path`` exists and may not be overwritten.
        FlowtuneError: the directory cannot be written. An existing one is kept.
    """
    check_output(path, overwrite=overwrite, directory=True)
    if path.is_dir() and any(path.iterdir()) and not (path / marker).is_file():
        raise UsageError(
            f"{path.absolute()} is not overwritten: it has no {marker}, so flowtune did not make"
            " it. Choose another directory."
        )
    try:
        target = replaced(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".flowtune-", suffix=".tmp", dir=target.parent))
        try:
            building = temporary / "new"
            building.mkdir()
            yield building
            for file in building.rglob("*"):
                if file.is_file():
                    with file.open("rb") as written:
                        os.fsync(written.fileno())
            if target.exists():
                target.rename(temporary / "old")
            building.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise FlowtuneError(f"cannot write {path.absolute()}: {error.strerror or error}") from error


@contextmanager
def _written(path: Path, check: Callable[[], None] = lambda: None) -> Iterator[IO[bytes]]:
    """A file whose content replaces that of ``path`` when the block ends without an error.

    Args:
        check: is called before the file is replaced, and may raise.
    """
    try:
        if is_stream(path):
            with open_stream(path) as file:
                yield file
            return
        target = replaced(path)
        # Not of the file's own name, which with more letters might be too long.
        temporary = target.with_name(f".flowtune-{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            check()
            os.replace(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink()
    except OSError as error:
        raise FlowtuneError(f"cannot write {path.absolute()}: {error.strerror or error}") from error
