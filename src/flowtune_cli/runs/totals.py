"""Running totals of each node, written with every batch.

What a run has come to is then read from its last batch alone, however long the run is; and taking
batches back takes their totals back with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..flow.deviation import Outcome, Trace
from ..flow.episode import Step
from .batch import BatchRecord, Row

ENDED = {
    Outcome.ALTERNATIVE_BETTER: "better",
    Outcome.GREEDY_BETTER: "worse",
    Outcome.TIE: "ties",
    Outcome.UNDEFINED: "undefined",
    Outcome.FAILED: "failed",
    Outcome.SKIPPED: "skipped",
}
"""The column that counts the rollouts which ended so."""

COLUMNS = (
    "calls",
    "truncated",
    "prompt_tokens",
    "tokens",
    *ENDED.values(),
    "preferences",
    "margins",
    "targets",
    "reference_moves",
)
"""What is summed, but for batch and node."""

Totals = dict[str, dict[str, Any]]
"""Column to sum, by node. ``margins`` is None once infinite margins have made it undefined."""


def rows(record: BatchRecord, before: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    """The rows of ``node_totals`` after a batch.

    Args:
        before: the totals after the batch before it, by node.
    """
    totals: Totals = {
        node: {column: of[column] for column in COLUMNS} for node, of in before.items()
    }
    for trace in record.traces:
        _add_trace(totals, trace)
    for update in record.updates:
        _of(totals, update.node)
    for node, moved in (record.reference_update or {}).items():
        _of(totals, node)["reference_moves"] += int(moved)
    for node, sums in totals.items():
        yield "node_totals", {"batch": record.batch, "node": node, **sums}


def timing_rows(record: BatchRecord, before: Mapping[str, float]) -> Iterator[Row]:
    """The rows of ``timings`` after a batch: its own seconds, and those from the run's start."""
    for phase in sorted({*before, *record.timings}):
        seconds = record.timings.get(phase, 0.0)
        yield (
            "timings",
            {
                "batch": record.batch,
                "phase": phase,
                "seconds": seconds,
                "total": before.get(phase, 0.0) + seconds,
            },
        )


def _of(totals: Totals, node: str) -> dict[str, Any]:
    return totals.setdefault(node, dict.fromkeys(COLUMNS, 0) | {"margins": 0.0})


def _add_trace(totals: Totals, trace: Trace) -> None:
    for step in trace.episode.steps:
        _add_call(totals, step)
        _of(totals, step.node)["calls"] += 1
        for output in step.response.outputs[1:]:
            _of(totals, step.node)["tokens"] += output.tokens
            _of(totals, step.node)["truncated"] += int(output.truncated)
    for deviation in trace.deviations:
        _of(totals, deviation.node)[ENDED[deviation.outcome]] += 1
        for step in deviation.rollout.steps[deviation.step :] if deviation.rollout else ():
            _add_call(totals, step)
    for preference in trace.preferences:
        sums = _of(totals, preference.node)
        sums["preferences"] += 1
        if sums["margins"] is not None:
            margins = sums["margins"] + preference.margin
            sums["margins"] = None if math.isnan(margins) else margins
    for target in trace.episode.targets:
        _of(totals, trace.episode.steps[target.step].node)["targets"] += 1


def _add_call(totals: Totals, step: Step) -> None:
    if step.substituted:  # no call was made for it
        return
    sums = _of(totals, step.node)
    sums["prompt_tokens"] += step.response.prompt_tokens
    sums["tokens"] += step.output.tokens
    sums["truncated"] += int(step.output.truncated)
