"""Logs a run's figures to the trackers that it names; none of them can stop the run.

A tracker that fails, be it at its start, on a call or at its end, is off from then on, and that is
said once. What is logged is remembered in the run's directory: a run that goes on from a checkpoint
plays some batches again, and their figures are not logged a second time.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..flow.errors import FlowtuneError
from ..runs.atomic import read_json, write_json
from ..runs.batch import BatchRecord
from ..runs.directory import RunDirectory
from .metrics import batch_metrics

FILE = "trackers.json"


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of the run.

    Args:
        name: the run's own, which other runs may have elsewhere.
        id: the same whenever the run goes on, and no other run's.
        path: its directory, where a tracker may keep files.
        settings: by section, as JSON values.
    """

    name: str
    id: str
    path: Path
    task: str
    settings: Mapping[str, Any]


class Tracker(Protocol):
    """Something that figures are logged to."""

    def log(self, episodes: int, figures: Mapping[str, float]) -> None:
        """The figures after a mini-batch, when so many episodes had been played."""

    def close(self) -> None:
        """The run ends, or stops for now."""


Factory = Callable[[TrackedRun], Tracker]
"""What a plugin registers: begins or goes on with the run in the tracker."""


class Trackers:
    """The trackers of one run. Use it in a ``with``.

    Args:
        names: as the setting ``run.trackers`` has them; without any, nothing is done.
        settings: the run's, by section, as JSON values.
        factory_of: finds a tracker's factory by its name; by default in the plugins.
    """

    def __init__(
        self,
        names: Sequence[str],
        run: RunDirectory,
        settings: Mapping[str, Any],
        factory_of: Callable[[str], Factory] | None = None,
    ) -> None:
        self._file = run.path / FILE
        self._logged: dict[str, int] = {}
        self._active: dict[str, Tracker] = {}
        if not names:
            return
        self._logged = _read(self._file)
        for name in dict.fromkeys(names):
            with self._guarded(name):
                factory = (factory_of or _registered)(name)
                self._active[name] = factory(_about(run, settings))

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *exception: object) -> None:
        for name, tracker in list(self._active.items()):
            with self._guarded(name):
                tracker.close()
        self._active.clear()

    def log(self, record: BatchRecord) -> None:
        """Log a mini-batch that has ended, unless it was logged before the run was resumed."""
        if not self._active:
            return
        episodes = record.position + len(record.traces)
        for name, tracker in list(self._active.items()):
            if episodes > self._logged.get(name, 0):
                # First: after a kill in between, a point is missing rather than there twice.
                self._logged[name] = episodes
                with self._guarded(name):
                    write_json(self._file, self._logged)
                    tracker.log(episodes, batch_metrics(record))

    @contextlib.contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Whatever a tracker does in this block: it costs the tracker alone."""
        try:
            # Some greet on stdout, where the run's figures go.
            with contextlib.redirect_stdout(sys.stderr):
                yield
        # SystemExit too: some libraries end the program when they are not logged in.
        except (Exception, SystemExit) as error:
            self._active.pop(name, None)
            print(
                f"flowtune: note: tracker '{name}' is off, and the run goes on: {_shown(error)}",
                file=sys.stderr,
            )


def _registered(name: str) -> Factory:
    from ..registry import load_registry

    return load_registry().tracker(name)


def _about(run: RunDirectory, settings: Mapping[str, Any]) -> TrackedRun:
    info = run.info
    begun = re.sub(r"\D", "", info.created)[:14]
    return TrackedRun(info.name, f"{info.name}-{begun}", run.path, info.task, settings)


def _read(file: Path) -> dict[str, int]:
    """By tracker, after how many episodes it was last logged to."""
    if not file.is_file():
        return {}
    try:
        return {str(name): int(episodes) for name, episodes in read_json(file).items()}
    except (FlowtuneError, AttributeError, TypeError, ValueError) as error:
        print(
            f"flowtune: note: {file} cannot be read, so trackers may get figures twice: {error}",
            file=sys.stderr,
        )
        return {}


def _shown(error: BaseException) -> str:
    """An error in a line, without what the environment keeps secret."""
    text = " ".join(str(error).split())
    if not isinstance(error, FlowtuneError):
        text = f"{type(error).__name__}: {text}"
    for variable, value in os.environ.items():
        if re.search(r"KEY|TOKEN|SECRET|PASSW", variable.upper()) and len(value) >= 6:
            text = text.replace(value, "…")
    return text[:500]
