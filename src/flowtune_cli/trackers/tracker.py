"""What a tracker is, and what it is told about the run: the types that a plugin's tracker needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class TrackedRun:
    """The run whose metrics a tracker logs.

    Args:
        name: the run's name; runs in other directories may have the same one.
        id: unique to the run, and unchanged when the run is resumed.
        path: the run's directory, in which a tracker may keep files.
        task: the name of the task that is trained.
        settings: all settings of the run as JSON values, by section.
    """

    name: str
    id: str
    path: Path
    task: str
    settings: Mapping[str, Any]


class Tracker(Protocol):
    """Logs the metrics of one run while it trains.

    An exception from any method turns this tracker off, with a note on stderr; the run continues.
    """

    def log(self, episodes: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a mini-batch or an evaluation. A resumed run logs none twice.

        Args:
            episodes: how many episodes of the run have been played so far.
            metrics: finite numbers by name: ``reward/NAME/overall`` and ``reward/NAME/window``
                (progressive validation), ``node/NAME/loss``, ``.../margin``, ``.../accuracy``,
                ``.../gradient_norm``, ``.../reference_drift``, ``.../data`` and
                ``.../reference_moved``, ``episode/preferences``, ``episode/failed`` and
                ``episode/truncated`` (each per episode of the mini-batch); ``eval/NAME`` and
                ``eval/failed`` (share) of an evaluation on held-out examples.
        """

    def close(self) -> None:
        """Called once, when the run ends or is stopped."""


TrackerFactory = Callable[[TrackedRun], Tracker]
"""What ``register_trackers`` registers: starts the run in the tracker, or resumes it there."""
