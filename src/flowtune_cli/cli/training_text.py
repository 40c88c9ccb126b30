"""Texts of ``flowtune train``: the progress line of a mini-batch, and the commands to try next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..flow.task import Task
from ..programs.task import ProgramTask
from ..runs.batch import BatchRecord


def batch_text(record: BatchRecord | None) -> str:
    """The metrics after a mini-batch, its preferences and failures; empty within a mini-batch."""
    if record is None:
        return ""
    parts = [
        f"{name} {_number(metric.overall)} (window {_number(metric.window)})"
        for name, metric in record.metrics.items()
    ]
    failures = [failure for trace in record.traces for failure in trace.failures]
    judging = sum(d.failure is not None for t in record.traces for d in t.deviations)
    parts.append(f"{sum(len(trace.preferences) for trace in record.traces)} preferences")
    if failures:
        runs = sum(len(trace.runs) for trace in record.traces)
        judged = f" ({judging} in the evaluator)" if judging else ""
        parts.append(f"{len(failures)} of {runs} episodes and rollouts failed{judged}")
    if record.checkpoint:
        parts.append("checkpoint")
    return ", ".join(parts)


def next_commands(task: Task, run: str, data: Mapping[str, Any]) -> list[str]:
    """The commands to try with a trained run.

    Args:
        run: its name or path.
        data: the ``data`` of the run's settings.json.
    """
    path, split = data["path"], data["split"]
    play = [task.name, "--run", run]
    predict = [*play]
    if path is not None:
        play += ["--data", path]
        # A folder has the other splits, too; a file is a single split.
        predict += ["--data", path if Path(path).is_dir() else "FILE"]
    if split != task.splits[0]:
        play += ["--split", split]
    own = getattr(task.settings, "data", None)
    if isinstance(task, ProgramTask) and own is not None and Path(own).is_file():
        predict += ["--data", "FILE", "--out", f"{Path(run).name}.jsonl"]
    else:
        other = next((name for name in task.splits if name != split), split)
        predict += ["--split", other, "--out", f"{Path(run).name}-{other}.jsonl"]
    return [
        shlex.join(["flowtune", "play", *play, "--deviate"]),
        shlex.join(["flowtune", "predict", *predict]),
    ]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
