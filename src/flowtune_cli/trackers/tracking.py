"""Logs a run's metrics to its trackers; none of them can stop the run.

A tracker that raises an exception is switched off, with one note. The run's directory records what
was logged: a resumed run repeats the batches after its checkpoint, whose metrics are not logged a
second time.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..flow.errors import FlowtuneError
from ..runs.atomic import read_json, write_json
from ..runs.batch import BatchRecord
from ..runs.directory import RunDirectory
from ..runs.evaluations import Evaluation
from .metrics import batch_metrics, evaluation_metrics
from .tracker import TrackedRun, Tracker, TrackerFactory

FILE = "trackers.json"


class Trackers:
    """The trackers of one run. Use it in a ``with``.

    Args:
        names: the setting ``run.trackers``; may be empty.
        settings: the run's, by section, as JSON values.
        factory_of: finds a tracker's factory by its name; by default among the plugins'.
    """

    def __init__(
        self,
        names: Sequence[str],
        run: RunDirectory,
        settings: Mapping[str, Any],
        factory_of: Callable[[str], TrackerFactory] | None = None,
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
                self._active[name] = factory(_tracked_run(run, settings))

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *exception: object) -> None:
        for name, tracker in list(self._active.items()):
            with self._guarded(name):
                tracker.close()
        self._active.clear()

    def log(self, record: BatchRecord) -> None:
        """Log a finished mini-batch, unless it was logged before the run was resumed."""
        if self._active:
            self._log(record.position + len(record.traces), batch_metrics(record))

    def log_evaluation(self, evaluation: Evaluation) -> None:
        """Log an evaluation on held-out examples, unless it was logged before."""
        if self._active:
            self._log(evaluation.episodes, evaluation_metrics(evaluation), " eval")

    def _log(self, episodes: int, metrics: Mapping[str, float], kind: str = "") -> None:
        for name, tracker in list(self._active.items()):
            if episodes > self._logged.get(name + kind, -1):
                # Recorded first: a crash in between loses a point instead of logging it twice.
                self._logged[name + kind] = episodes
                with self._guarded(name):
                    write_json(self._file, self._logged)
                    tracker.log(episodes, metrics)

    @contextlib.contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Switch the tracker off if it raises an exception in this block."""
        try:
            # Some print to stdout, which is for the run's metrics.
            with contextlib.redirect_stdout(sys.stderr):
                yield
        # Also SystemExit: some libraries exit if the user is not logged in.
        except (Exception, SystemExit) as error:
            self._active.pop(name, None)
            print(
                f"flowtune: note: tracker '{name}' is off, the run continues: {_message(error)}",
                file=sys.stderr,
            )


def _registered(name: str) -> TrackerFactory:
    from ..registry import load_registry

    return load_registry().tracker(name)


def _tracked_run(run: RunDirectory, settings: Mapping[str, Any]) -> TrackedRun:
    info = run.info
    created = re.sub(r"\D", "", info.created)[:14]
    return TrackedRun(info.name, f"{info.name}-{created}", run.path, info.task, settings)


def _read(file: Path) -> dict[str, int]:
    """By tracker, the number of episodes when it was last logged to; " eval": an evaluation."""
    if not file.is_file():
        return {}
    try:
        return {str(name): int(episodes) for name, episodes in read_json(file).items()}
    except (FlowtuneError, AttributeError, TypeError, ValueError) as error:
        print(
            f"flowtune: note: {file} cannot be read, so trackers may get metrics twice: {error}",
            file=sys.stderr,
        )
        return {}


def _message(error: BaseException) -> str:
    """An error in one line, without the values of secret environment variables."""
    text = " ".join(str(error).split())
    if not isinstance(error, FlowtuneError):
        text = f"{type(error).__name__}: {text}"
    for variable, value in os.environ.items():
        if re.search(r"KEY|TOKEN|SECRET|PASSW", variable.upper()) and len(value) >= 6:
            text = text.replace(value, "…")
    return text[:500]
