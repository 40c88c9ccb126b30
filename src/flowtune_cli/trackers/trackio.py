"""Trackio: a local tracker, unless a Hugging Face Space is configured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..flow.errors import missing_package
from .tracker import TrackedRun


class Trackio:
    """Trackio, project 'flowtune-TASK'; view it with 'trackio show'."""

    def __init__(self, run: TrackedRun) -> None:
        try:
            import trackio
        except ModuleNotFoundError as error:
            raise missing_package("it", "trackio", "trackio") from error

        self._run: Any = trackio.init(
            project=f"flowtune-{run.task}",
            name=run.id,
            config=dict(run.settings),
            resume="allow",
        )

    def log(self, episodes: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=episodes)

    def close(self) -> None:
        self._run.finish()
