"""Reads the text files of users: UTF-8, with or without a byte order mark, or that in gzip."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DataError

_GZIP = b"\x1f\x8b"
_MARK = b"\xef\xbb\xbf"
_PEEKED = 1024

# By how a file begins: what it is, and what to do. UTF-32's mark begins with UTF-16's.
_OTHERS = {
    b"\xff\xfe\x00\x00": ("UTF-32", "iconv -f UTF-32 -t UTF-8 {} > NEW"),
    b"\x00\x00\xfe\xff": ("UTF-32", "iconv -f UTF-32 -t UTF-8 {} > NEW"),
    b"\xff\xfe": ("UTF-16", "iconv -f UTF-16 -t UTF-8 {} > NEW"),
    b"\xfe\xff": ("UTF-16", "iconv -f UTF-16 -t UTF-8 {} > NEW"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "zstd -d {}"),
    b"BZh": ("compressed by bzip2", "bunzip2 --keep {}"),
    b"\xfd7zXZ\x00": ("compressed by xz", "unxz --keep {}"),
    b"PK\x03\x04": ("a zip archive", "unzip {}"),
}


def read_text(path: Path) -> str:
    """A whole text file.

    Raises:
        DataError: as ``read_text_lines``.
    """
    return "".join(line for _, line in read_text_lines(path))


def read_text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, from 1; each with its line end.

    The file is UTF-8, or that compressed by gzip. A byte order mark is passed over.

    Raises:
        DataError: it cannot be read or is no such file; says what it is, or which line is wrong.
    """
    with _explained(path), path.open("rb") as file:
        # A pipe gives its first bytes once: they are looked at, and not read.
        zipped = file.peek(len(_GZIP)).startswith(_GZIP)
        with io.BufferedReader(gzip.GzipFile(fileobj=file)) if zipped else file as lines:
            head = lines.peek(_PEEKED)[:_PEEKED]
            _check(path, head)
            if head.startswith(_MARK):
                lines.read(len(_MARK))
            for number, line in enumerate(lines, start=1):
                yield number, _decoded(line, f"{path}:{number}")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: its gzip compression is damaged: {error}. Get the file again."
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _check(path: Path, head: bytes) -> None:
    for begin, (what, command) in _OTHERS.items():
        if head.startswith(begin):
            raise DataError(
                f"{path}: the file is {what}. Make it UTF-8 text, plain or compressed by gzip:"
                f" {command.format(path.name)}"
            )
    if b"\x00" in head:
        raise DataError(
            f"{path}: this is a binary file, or UTF-16 or UTF-32 without a byte order mark. A text"
            " file in UTF-8 is wanted."
        )


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}."
            " Save the file as UTF-8."
        ) from None
