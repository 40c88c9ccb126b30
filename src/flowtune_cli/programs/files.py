"""The files that a program's task consists of, and whether they are still as a run found them."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..flow.errors import UsageError
from .loading import is_function, source_file
from .targets import target_file


def file_digests(values: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each file that a task's settings name, by the setting.

    What a program imports is not looked at.

    Args:
        values: the task's settings, as a run stores them; those of other tasks have no such files.
    """
    found = {}
    for setting, path in _files(values):
        with suppress(OSError):
            found[setting] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def changed_files(then: Mapping[str, str], values: Mapping[str, Any]) -> list[str]:
    """A line for each file that is another one now than in the digests."""
    now = file_digests(values)
    paths = dict(_files(values))
    return [
        f"{paths[setting]} ({setting}) has changed"
        for setting, digest in now.items()
        if then.get(setting, digest) != digest
    ]


def _files(values: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    for name in ("function", "reward"):
        yield from _of_function(name, values.get(name))
    program = values.get("program")
    if isinstance(program, str):
        words: list[str] = []
        with suppress(ValueError):
            words = shlex.split(program)
        for number, word in enumerate(words):
            path = Path(values.get("directory") or "", word)
            if path.is_file():
                yield f"program, word {number + 1}", path
    nodes = values.get("nodes")
    for node, table in nodes.items() if isinstance(nodes, Mapping) else ():
        target = table.get("target") if isinstance(table, Mapping) else None
        if isinstance(target, str):
            yield from _of_function(f"nodes.{node}.target", target_file(target))


def _of_function(setting: str, text: Any) -> Iterator[tuple[str, Path]]:
    if isinstance(text, str) and is_function(text):
        with suppress(UsageError):
            path = source_file(text)
            if path is not None:
                yield setting, path
