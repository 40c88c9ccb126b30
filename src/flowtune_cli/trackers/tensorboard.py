"""TensorBoard: event files in the run's own directory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..flow.errors import missing_package
from .tracker import TrackedRun


class TensorBoard:
    """TensorBoard, in RUN/tensorboard; view it with 'tensorboard --logdir RUNS'."""

    def __init__(self, run: TrackedRun) -> None:
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ModuleNotFoundError as error:
            raise missing_package("it", "tensorboard", "tensorboard") from error

        self._writer: Any = EventFileWriter(str(run.path / "tensorboard"))

    def log(self, episodes: int, metrics: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        event = Event(wall_time=time.time(), step=episodes, summary=Summary(value=values))
        self._writer.add_event(event)
        # Metrics that a crash loses would not be logged again.
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
