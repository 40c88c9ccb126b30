"""Findings about programs that return nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...flow.deviation import Trace
from ...flow.task import Task
from ...programs.task import RESULT, ProgramTask
from .finding import Finding


def result_findings(task: Task, traces: Sequence[Trace]) -> Iterator[Finding]:
    """That a program has returned nothing at any example: its 'return' is missing, say."""
    finished = [trace for trace in traces if trace.episode.failure is None]
    if not isinstance(task, ProgramTask) or not finished:
        return
    if all(trace.episode.result[RESULT] in (None, "") for trace in finished):
        yield Finding(
            "no-result",
            "warning",
            f"the program returned nothing ({finished[0].episode.result[RESULT]!r}) at each of"
            f" {len(finished):,} examples",
            "A function returns its result, and an executable prints it as JSON: a reward is"
            " given nothing else of what was done.",
            example=finished[0].example.id,
            count=len(finished),
        )
