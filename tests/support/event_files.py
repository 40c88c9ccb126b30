"""Reads TensorBoard's event files back, as TensorBoard itself does."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def scalars(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """By name the (step, value) that are in a run's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
