"""Standard output has a command's own output alone: all else that is written there goes to stderr.

A plugin may print when it is imported, a task while it plays. A library in C and a subprocess write
to descriptor 1, whatever ``sys.stdout`` is. Who reads a command's JSON wants none of it. A command
of a plugin has standard output to itself, but for what plugins print when they are loaded.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import typer

from ..flow.errors import FlowtuneError

_NAMES = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")

_own: TextIO | None = None
"""What ``sys.stdout`` was before ``foreign`` made it stderr."""
_copy: int | None = None
"""A duplicate of descriptor 1 as it was before ``reserved``."""


def stream() -> TextIO:
    """Where a command's own output goes."""
    return sys.stdout if _own is None else _own


def write(text: object, *, end: str = "\n") -> None:
    """Write a command's own output.

    Raises:
        BrokenPipeError: who reads it wants no more.
        FlowtuneError: it cannot be written, as on a full disk.
    """
    try:
        typer.echo(f"{text}{end}", file=stream(), nl=False)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FlowtuneError(f"the output cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def reserved() -> Iterator[None]:
    """Descriptor 1 is stderr within; ``sys.stdout`` still writes to standard output.

    Raises:
        BrokenPipeError: who reads standard output wants no more.
    """
    global _copy
    outer: TextIO | None = sys.stdout
    if outer is None:  # it is closed
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            yield
        return
    if not _is_descriptor_1(outer):
        yield
        outer.flush()
        return
    outer.flush()
    _copy = os.dup(1)
    # Closed below, whatever comes of its last bytes.
    sys.stdout = ours = open(_copy, "w", encoding=outer.encoding, errors=outer.errors)  # noqa: SIM115
    _make_stderr()
    try:
        yield
        ours.flush()
    finally:
        with contextlib.suppress(OSError):
            outer.flush()  # what was written by those who held it
        os.dup2(_copy, 1)
        sys.stdout, _copy = outer, None
        with contextlib.suppress(OSError):
            ours.close()


def own_path(value: Any) -> Any:
    """A path, or anything else; what names standard output is where a command's own output goes."""
    names_it = isinstance(value, Path) and str(value) in _NAMES
    return Path(f"/dev/fd/{_copy}") if names_it and _copy is not None else value


def is_own(path: Path) -> bool:
    """Whether a path, after ``own_path``, is where a command's own output goes."""
    return str(path) in (*_NAMES, f"/dev/fd/{_copy}")


@contextlib.contextmanager
def foreign() -> Iterator[None]:
    """What is printed within goes to stderr; what ``write`` writes does not."""
    global _own
    before, _own = _own, stream()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _own = before


@contextlib.contextmanager
def given_back() -> Iterator[None]:
    """Descriptor 1 is standard output again within."""
    if _copy is None:
        yield
        return
    os.dup2(_copy, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        _make_stderr()


def _is_descriptor_1(file: Any) -> bool:
    try:
        return bool(file.fileno() == 1)
    except (OSError, ValueError):  # a closed one, or a test's
        return False


def _make_stderr() -> None:
    """Make descriptor 1 a duplicate of stderr's, or of nothing's where that is closed."""
    try:
        os.dup2(2, 1)
    except OSError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.close(nothing)
