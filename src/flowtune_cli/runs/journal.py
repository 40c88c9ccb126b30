"""A run's journal: what cannot be computed again, since its newest checkpoint.

Effects and evaluators may ask the world, which may answer otherwise tomorrow. So how they ended is
written before a flow gets it, and in which order it got it; a run that is resumed reads it, and
goes on as if it had never stopped. Each line is one JSON array.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ..flow.effect import EffectEnd, Key, error_from_json, error_to_json
from ..flow.errors import FlowtuneError
from .atomic import write_bytes

RunName = tuple[int, ...]
Group = tuple[Key, ...]


@dataclass
class EpisodeJournal:
    """What is kept of one episode and its rollouts.

    Attributes:
        ends: how effects ended, by key.
        orders: which ends each run of the flow got together, in order.
    """

    number: int
    file: Journal
    ends: dict[Key, EffectEnd] = field(default_factory=dict)
    orders: dict[RunName, list[Group]] = field(default_factory=dict)

    def end(self, key: Key, end: EffectEnd) -> None:
        """Keep how an effect ended.

        An exception that cannot be made again from its arguments is not kept; a resumed run has
        the effect run again.
        """
        if end.error is None:
            self.file.write([self.number, "result", key, end.result])
            return
        error = error_to_json(end.error)
        if error is not None:
            self.file.write([self.number, "error", key, error])

    def deliver(self, run: RunName, keys: Group) -> None:
        """Keep what a run got together."""
        self.file.write([self.number, "order", run, keys])


class Journal:
    """The journal's file, open for writing; it exists while there is something in it.

    Args:
        path: of the file.
        begin: the first episode that is played from here on; what is kept of earlier ones is
            forgotten.
        own: the file to write to, if another process writes the other one; see
            ``rank_journals``.

    Raises:
        FlowtuneError: it cannot be read or written; names the line.
    """

    def __init__(self, path: Path, begin: int, own: Path | None = None) -> None:
        self.path = own or path
        self._file: TextIO | None = None
        self._episodes: dict[int, EpisodeJournal] = {}
        self._last = -1
        try:
            self._read(path, begin)
        except OSError as error:
            raise FlowtuneError(f"{path} cannot be read: {error}") from None

    def episode(self, number: int) -> EpisodeJournal:
        """What is kept of the episode of that number of the run."""
        return self._episodes.get(number) or EpisodeJournal(number, self)

    def write(self, entry: list[Any]) -> None:
        """Add a line; a process that is killed after this has it.

        Raises:
            FlowtuneError: it cannot be written.
        """
        self._last = max(self._last, entry[0])
        try:
            if self._file is None:
                self._file = self.path.open("a", encoding="ascii")
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._not_written(error) from None

    def forget(self, begin: int) -> None:
        """Forget the episodes before ``begin``: a checkpoint has what came of them.

        A mini-batch that was stopped half-way is played again behind it; what is kept of that one
        stays, and the others until the file is opened again.
        """
        if self._last >= begin:
            return
        self.close()
        self._episodes.clear()
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise self._not_written(error) from None

    def close(self) -> None:
        """Close the file; what was written stays."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # each line was flushed when it was written
                self._file.close()
            self._file = None

    def _not_written(self, error: OSError) -> FlowtuneError:
        return FlowtuneError(f"{self.path} cannot be written: {error.strerror or error}")

    def _read(self, path: Path, begin: int) -> None:
        if not os.path.lexists(path):
            return
        lines = path.read_bytes().split(b"\n")
        # Text after the last line's end is what a killed process had begun to write.
        kept = []
        for number, line in enumerate(lines[:-1], 1):
            try:
                episode, kind, key, value = json.loads(line)
                if episode >= begin:
                    self._add(episode, kind, key, value)
                    kept.append(line + b"\n")
            except (ValueError, TypeError, KeyError) as error:
                raise FlowtuneError(
                    f"{path}, line {number} is damaged ({error}). Delete the file to resume"
                    " without it: effects since the newest checkpoint then run again."
                ) from None
        if path == self.path and (len(kept) < len(lines) - 1 or lines[-1]):
            write_bytes(path, kept)

    def _add(self, number: int, kind: str, name: Iterable[Any], value: Any) -> None:
        self._last = max(self._last, number)
        episode = self._episodes.setdefault(number, EpisodeJournal(number, self))
        if kind == "order":
            group = tuple(tuple(key) for key in value)
            episode.orders.setdefault(tuple(name), []).append(group)
        elif kind == "result":
            episode.ends[tuple(name)] = EffectEnd(value)
        elif kind == "error":
            error = error_from_json(value)
            if error is not None:  # else its class is not loaded yet, and the effect runs again
                episode.ends[tuple(name)] = EffectEnd(error=error)
        else:
            raise ValueError(f"'{kind}' is nothing that a journal holds")
