"""The figures of a mini-batch that trackers log, by name."""

from __future__ import annotations

import math
from dataclasses import asdict

from ..runs.batch import BatchRecord

_OF_UPDATE = ("data", "loss", "margin", "accuracy", "gradient_norm", "reference_drift")


def batch_metrics(record: BatchRecord) -> dict[str, float]:
    """Progressive validation, updates and reference updates; undefined ones are left out.

    ``reward/NAME/overall``, ``reward/NAME/window``; ``node/NAME/loss`` and so on;
    ``node/NAME/reference_moved`` where that was decided; ``episode/preferences``,
    ``episode/failed`` and ``episode/truncated``, each per episode of the mini-batch.
    """
    found: dict[str, float | None] = {}
    for name, metric in record.metrics.items():
        found[f"reward/{name}/overall"] = metric.overall
        found[f"reward/{name}/window"] = metric.window
    for update in record.updates:
        of_update = asdict(update)
        for figure in _OF_UPDATE:
            found[f"node/{update.node}/{figure}"] = of_update[figure]
    for node, moved in (record.reference_update or {}).items():
        found[f"node/{node}/reference_moved"] = float(moved)
    if count := len(record.traces):
        episodes = [trace.episode for trace in record.traces]
        truncated = sum(any(step.output.truncated for step in e.steps) for e in episodes)
        preferences = sum(len(trace.preferences) for trace in record.traces)
        found["episode/preferences"] = preferences / count
        found["episode/failed"] = sum(e.failure is not None for e in episodes) / count
        found["episode/truncated"] = truncated / count
    return {
        name: float(value)
        for name, value in found.items()
        if value is not None and math.isfinite(value)
    }
