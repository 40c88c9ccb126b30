"""The metrics of a mini-batch that trackers log, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict

from ..runs.batch import BatchRecord
from ..runs.evaluations import Evaluation

_UPDATE_METRICS = ("data", "loss", "margin", "accuracy", "gradient_norm", "reference_drift")


def batch_metrics(record: BatchRecord) -> dict[str, float]:
    """Progressive validation, updates and reference updates; undefined metrics are left out.

    ``reward/NAME/overall``, ``reward/NAME/window``; ``node/NAME/loss`` and so on;
    ``node/NAME/reference_moved`` at the end of a window; ``node/NAME/rollout_gap`` where servers
    decode, see ``BatchRecord``; ``episode/preferences``,
    ``episode/failed`` and ``episode/truncated``, each per episode of the mini-batch.
    """
    metrics: dict[str, float | None] = {}
    for name, metric in record.metrics.items():
        metrics[f"reward/{name}/overall"] = metric.overall
        metrics[f"reward/{name}/window"] = metric.window
    for update in record.updates:
        values = asdict(update)
        for metric_name in _UPDATE_METRICS:
            metrics[f"node/{update.node}/{metric_name}"] = values[metric_name]
    for node, moved in (record.reference_update or {}).items():
        metrics[f"node/{node}/reference_moved"] = float(moved)
    for node, gap in record.rollout_gaps.items():
        metrics[f"node/{node}/rollout_gap"] = gap
    if count := len(record.traces):
        episodes = [trace.episode for trace in record.traces]
        truncated = sum(any(step.output.truncated for step in e.steps) for e in episodes)
        preferences = sum(len(trace.preferences) for trace in record.traces)
        metrics["episode/preferences"] = preferences / count
        metrics["episode/failed"] = sum(e.failure is not None for e in episodes) / count
        metrics["episode/truncated"] = truncated / count
    return _finite(metrics)


def evaluation_metrics(evaluation: Evaluation) -> dict[str, float]:
    """``eval/NAME`` for each figure, and ``eval/failed``, the share of failed examples."""
    metrics = {f"eval/{name}": figure.value for name, figure in evaluation.figures.items()}
    metrics["eval/failed"] = evaluation.failed / evaluation.examples
    return _finite(metrics)


def _finite(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in metrics.items()
        if value is not None and math.isfinite(value)
    }
