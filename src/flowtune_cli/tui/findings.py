"""Findings about a run: signs that it does or does not learn, one sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from ..flow.deviation import Outcome
from ..runs.learning_warnings import LearningWarning
from ..runs.records import Counts, NodeSummary
from .formatting import number, one_line, percent, plural, shortened

_MANY, _HALF, _SOME = 0.8, 0.5, 0.1
_MIN_COUNT = 10
"""Fewer rollouts, preferences or outputs than this give no finding."""
_MAX_LETTERS = 40
"""The most letters of an output in a finding."""


def completeness(counts: Counts) -> str:
    """How complete the data is, in one line."""
    rollouts = sum(counts.rollouts.values())
    lost = {
        "failed": counts.rollouts[Outcome.FAILED],
        "failed in the evaluator": counts.rollouts[Outcome.EVALUATOR_FAILED],
        "undefined": counts.rollouts[Outcome.UNDEFINED],
        "skipped": counts.rollouts[Outcome.SKIPPED],
    }
    missing = ", ".join(f"{count:,} {what}" for what, count in lost.items() if count)
    return (
        f"{plural(counts.episodes, 'episode')}: {counts.failed:,} failed,"
        f" {counts.truncated:,} with a truncated output,"
        f" {counts.shortened:,} with a shortened prompt."
        f" {plural(rollouts, 'rollout')}: {missing or 'none lost'}."
    )


def findings(
    counts: Counts, nodes: Sequence[NodeSummary], warnings: Sequence[LearningWarning] = ()
) -> list[str]:
    """The findings, the most important first: ``warnings`` about nodes that do not learn."""
    found = [f"{warning.text}." for warning in warnings]
    if counts.failed:
        share = percent(counts.failed, counts.episodes)
        found.append(
            f"{plural(counts.failed, 'episode')} failed ({share}): filter 'failed' shows why."
        )
    if counts.episodes and not counts.preferences and not counts.targets:
        found.append("Nothing to learn from: there are no preferences and no targets.")
    for node in nodes:
        found += _of_node(node)
    if counts.shortened:
        found.append(
            f"{plural(counts.shortened, 'prompt')} did not fit the context and were shortened."
        )
    return found


def _of_node(node: NodeSummary) -> list[str]:
    found = []
    lost = {
        "skipped": node.skipped,
        "undefined": node.undefined,
        "failed": node.failed,
        "failed in the evaluator": node.evaluator_failed,
    }
    compared = node.better + node.worse + node.ties
    for what, count in lost.items():
        if count > _SOME * node.rollouts:
            found.append(f"{node.node}: {percent(count, node.rollouts)} of its rollouts {what}.")
    if compared >= _MIN_COUNT and node.ties >= _MANY * compared:
        share = percent(node.ties, compared)
        found.append(f"{node.node}: {share} ties, so its alternatives rarely change the reward.")
    if node.preferences >= _MIN_COUNT and node.win_rate is not None:
        if node.win_rate < _SOME:
            found.append(f"{node.node}: alternatives almost never win; it may be near its optimum.")
        elif node.win_rate >= 0.55:
            found.append(
                f"{node.node}: alternatives win {node.win_rate:.0%}: there is room to improve."
            )
    update = node.last_update
    if (node.preferences or node.targets) and update is None:
        found.append(f"{node.node}: it has data but was never updated.")
    if update is not None and update.margin is not None and update.margin < 0:
        found.append(
            f"{node.node}: the policy prefers the rejected outputs"
            f" (margin {number(update.margin, 2)})."
        )
    outputs = node.steps + node.rollouts
    if outputs and node.truncated > _SOME * outputs and node.tokens:
        found.append(f"{node.node}: {node.truncated:,} outputs were truncated by max_new_tokens.")
    return found + _of_outputs(node)


def _of_outputs(node: NodeSummary) -> list[str]:
    """Whether a node gives the same output, or an empty one, for most inputs."""
    common = node.most_common_output
    if common is None or common.calls < _MIN_COUNT:
        return []
    share = f"{node.node}: {common.count} of its latest {common.calls} outputs are"
    if not common.output.strip() and common.count > _SOME * common.calls:
        return [f"{share} empty."]
    if common.count > _HALF * common.calls:
        return [f"{share} the same: {shortened(one_line(common.output), _MAX_LETTERS)}"]
    return []
