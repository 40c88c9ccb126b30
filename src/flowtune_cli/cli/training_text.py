"""What training says of itself: the figures of a mini-batch, and what can be done afterwards."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..flow.task import Task
from ..runs.batch import BatchRecord


def figures(record: BatchRecord | None) -> str:
    """The averages after a mini-batch, and what happened in it; empty within one."""
    if record is None:
        return ""
    parts = [
        f"{name} {_number(metric.overall)} (window {_number(metric.window)})"
        for name, metric in record.metrics.items()
    ]
    runs = [trace.episode for trace in record.traces]
    runs += [d.rollout for t in record.traces for d in t.deviations if d.rollout is not None]
    failed = sum(run.failure is not None for run in runs)
    parts.append(f"{sum(len(trace.preferences) for trace in record.traces)} preferences")
    if failed:
        parts.append(f"{failed} of {len(runs)} episodes and rollouts failed")
    if record.checkpoint:
        parts.append("checkpoint")
    return ", ".join(parts)


def commands(task: Task, run: str, data: Mapping[str, Any]) -> list[str]:
    """What to try with a run that has been trained on this data.

    Args:
        run: its name or path.
        data: what the run stores of its data.
    """
    path, split = data["path"], data["split"]
    played = [task.name, "--run", run]
    predicted = [*played]
    if path is not None:
        played += ["--data", path]
        # A folder has the other splits, too; a file is one of them.
        predicted += ["--data", path if Path(path).is_dir() else "FILE"]
    if split != task.splits[0]:
        played += ["--split", split]
    other = next((name for name in task.splits if name != split), split)
    predicted += ["--split", other, "--out", f"{Path(run).name}-{other}.jsonl"]
    return [
        shlex.join(["flowtune", "play", *played, "--deviate"]),
        shlex.join(["flowtune", "predict", *predicted]),
    ]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
