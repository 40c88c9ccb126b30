"""Texts of ``flowtune train``: the progress line of a mini-batch, and the commands to try next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flow.task import Task
from ..programs.task import ProgramTask
from ..runs.batch import BatchRecord
from ..runs.evaluations import Evaluation, best_of, without_a_better

if TYPE_CHECKING:
    from ..training.evaluation import EvaluationReport

_MOST_FIGURES = 6
"""In a line of progress; the store has all."""


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


def evaluation_text(report: EvaluationReport) -> str:
    """The figures of an evaluation that has ended; how far it is within one."""
    evaluation = report.evaluation
    if evaluation is None:
        return f"held out: {report.played}/{report.examples} examples"
    figures = [f"{name} {_number(figure.value)}" for name, figure in evaluation.figures.items()]
    parts = [f"held out: {', '.join(figures[:_MOST_FIGURES])}"]
    if len(figures) > _MOST_FIGURES:
        parts[0] += f" and {len(figures) - _MOST_FIGURES} more"
    if report.failure is not None:
        example, failure = report.failure
        error = failure.error.partition("\n")[0]
        parts.append(
            f"{evaluation.failed} of {evaluation.examples} examples failed, the first is"
            f" '{example}': {error}"
        )
    if report.problem:
        parts.append(report.problem)
    if report.is_best:
        parts.append(f"the best {evaluation.metric_name} so far")
    return "; ".join(parts)


def best_text(evaluations: Sequence[Evaluation], run: str) -> str:
    """Which checkpoint is the best one; empty without any.

    Args:
        run: its name or path.
    """
    best = best_of(evaluations)
    if best is None:
        return ""
    after = "untrained" if not best.episodes else f"after {best.episodes} episodes"
    return (
        f"the best of {len(evaluations)} evaluations is {best.metric_name} {_number(best.value)},"
        f" {after}: {run}@best"
    )


def best_of_fewer(evaluations: Sequence[Evaluation]) -> str:
    """That the best figure is of fewer examples than others; empty if it is not."""
    best = best_of(evaluations)
    most = max((each.counted for each in evaluations if each.value is not None), default=0)
    if best is None or best.counted == most:
        return ""
    return (
        f"the best {best.metric_name} is of {best.counted} of {best.examples} examples, as the flow"
        f" failed or it is undefined for the others; in another evaluation it is of {most}. It may"
        " be the best because the harder examples are not in it"
    )


def early_end_text(evaluations: Sequence[Evaluation]) -> str:
    """Why training ended although there were examples left."""
    best = best_of(evaluations)
    count = without_a_better(evaluations)
    if best is None:
        return f"ended early: none of {count} evaluations has a figure (training.evaluate.patience)"
    since = "evaluation" if count == 1 else f"{count} evaluations"
    return (
        f"ended early: {best.metric_name} was {_number(best.value)} after {best.episodes} episodes,"
        f" and no better in the {since} since (training.evaluate.patience)"
    )


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
