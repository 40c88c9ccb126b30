"""Running totals of each node and phase, stored with every batch.

So a run is summarized from its last batch alone, however long the run is, and deleting batches
deletes their totals with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..flow.deviation import Outcome, Trace
from ..flow.episode import Episode, Step
from .batch import BatchRecord, Row

OUTCOME_COLUMNS = {
    Outcome.ALTERNATIVE_BETTER: "better",
    Outcome.GREEDY_BETTER: "worse",
    Outcome.TIE: "ties",
    Outcome.UNDEFINED: "undefined",
    Outcome.FAILED: "failed",
    Outcome.EVALUATOR_FAILED: "evaluator_failed",
    Outcome.SKIPPED: "skipped",
}
"""The column that counts the rollouts with this outcome."""

COLUMNS = (
    "calls",
    "failed_calls",
    "announced",
    "alternatives",
    "outputs",
    "truncated",
    "prompt_tokens",
    "tokens",
    *OUTCOME_COLUMNS.values(),
    "unreported",
    "preferences",
    "margins",
    "targets",
    "data",
    "reference_moves",
)
"""The columns that are summed: all but batch and node."""

Totals = dict[str, dict[str, Any]]
"""The sums by node and column. ``margins`` is None once infinite margins made it undefined."""


def node_rows(record: BatchRecord, previous: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    """The rows of ``node_totals`` after a batch.

    Args:
        previous: the totals after the previous batch, by node.
    """
    totals: Totals = {
        node: {column: row[column] for column in COLUMNS} for node, row in previous.items()
    }
    for trace in record.traces:
        _add_trace(totals, trace)
    for update in record.updates:
        _sums(totals, update.node)["data"] += update.data
    for node, moved in (record.reference_update or {}).items():
        _sums(totals, node)["reference_moves"] += int(moved)
    for node, sums in totals.items():
        yield "node_totals", {"batch": record.batch, "node": node, **sums}


def timing_rows(record: BatchRecord, previous: Mapping[str, float]) -> Iterator[Row]:
    """The rows of ``timings`` after a batch: its own seconds, and the total since the start."""
    for phase in sorted({*previous, *record.timings}):
        seconds = record.timings.get(phase, 0.0)
        yield (
            "timings",
            {
                "batch": record.batch,
                "phase": phase,
                "seconds": seconds,
                "total": previous.get(phase, 0.0) + seconds,
            },
        )


def _sums(totals: Totals, node: str) -> dict[str, Any]:
    return totals.setdefault(node, dict.fromkeys(COLUMNS, 0) | {"margins": 0.0})


def _add_trace(totals: Totals, trace: Trace) -> None:
    episode = trace.episode
    for step in episode.steps:
        _add_call(totals, step)
        sums = _sums(totals, step.node)
        sums["calls"] += 1
        sums["failed_calls"] += int(episode.failure is not None)
        sums["announced"] += int(_reward(episode, step.node) in episode.undefined_rewards)
        for output in step.response.outputs[1:]:
            sums["alternatives"] += 1
            sums["outputs"] += 1
            sums["tokens"] += output.tokens
            sums["truncated"] += int(output.truncated)
    for deviation in trace.deviations:
        sums = _sums(totals, deviation.node)
        sums[OUTCOME_COLUMNS[deviation.outcome]] += 1
        reward = _reward(episode, deviation.node)
        if deviation.outcome is Outcome.SKIPPED and reward is not None:
            sums["unreported"] += int(episode.reward_of(reward, deviation.step) is None)
    played: set[int] = set()  # endings may share a run
    for deviation in trace.deviations:
        for run in (deviation.rollout, deviation.baseline):
            if run is not None and id(run) not in played:
                played.add(id(run))
                for step in run.steps[deviation.step :]:
                    _add_call(totals, step)
    for preference in trace.preferences:
        sums = _sums(totals, preference.node)
        sums["preferences"] += 1
        if sums["margins"] is not None:
            margins = sums["margins"] + preference.margin
            sums["margins"] = None if math.isnan(margins) else margins
    for target in trace.episode.targets:
        _sums(totals, trace.episode.steps[target.step].node)["targets"] += 1


def _add_call(totals: Totals, step: Step) -> None:
    if step.substituted or step.recorded:  # an output without a call
        return
    sums = _sums(totals, step.node)
    sums["prompt_tokens"] += step.response.prompt_tokens
    sums["outputs"] += 1
    sums["tokens"] += step.output.tokens
    sums["truncated"] += int(step.output.truncated)


def _reward(episode: Episode, name: str) -> str | None:
    """The reward that judges a node, if no evaluator does."""
    node = episode.nodes.get(name)
    return None if node is None or node.evaluator is not None else node.reward
