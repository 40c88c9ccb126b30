"""What stands out in a run's figures: why it learns or does not, in one sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from ..flow.deviation import Outcome
from ..runs.stored import Counts, NodeSummary
from .figures import number, one_line, percent, plural, shortened

_MANY, _HALF, _SOME = 0.8, 0.5, 0.1
_ENOUGH = 10
"""Fewer rollouts, preferences or outputs than this say nothing yet."""
_SHOWN = 40
"""Letters of an output that are shown."""


def data(counts: Counts) -> str:
    """Whether the data is complete, in one line."""
    rollouts = sum(counts.rollouts.values())
    lost = {
        "failed": counts.rollouts[Outcome.FAILED],
        "undefined": counts.rollouts[Outcome.UNDEFINED],
        "skipped": counts.rollouts[Outcome.SKIPPED],
    }
    missing = ", ".join(f"{count:,} {what}" for what, count in lost.items() if count)
    return (
        f"{plural(counts.episodes, 'episode')}: {counts.failed:,} failed,"
        f" {counts.truncated:,} with an output cut off,"
        f" {counts.shortened:,} with a prompt shortened."
        f" {plural(rollouts, 'rollout')}: {missing or 'none lost'}."
    )


def findings(counts: Counts, nodes: Sequence[NodeSummary]) -> list[str]:
    """What stands out, the most telling first; empty if nothing does."""
    found = []
    if counts.failed:
        share = percent(counts.failed, counts.episodes)
        found.append(
            f"{plural(counts.failed, 'episode')} failed ({share}): filter 'failed' shows why."
        )
    if counts.episodes and not counts.preferences and not counts.targets:
        found.append("Nothing was learned from: no preference and no target was made.")
    for node in nodes:
        found += _of_node(node)
    if counts.shortened:
        found.append(f"{plural(counts.shortened, 'prompt')} did not fit: part of them was dropped.")
    return found


def _of_node(node: NodeSummary) -> list[str]:
    found = []
    lost = {"skipped": node.skipped, "undefined": node.undefined, "failed": node.failed}
    compared = node.better + node.worse + node.ties
    for what, count in lost.items():
        if count > _SOME * node.rollouts:
            found.append(f"{node.node}: {percent(count, node.rollouts)} of its rollouts {what}.")
    if compared >= _ENOUGH and node.ties >= _MANY * compared:
        share = percent(node.ties, compared)
        found.append(f"{node.node}: {share} ties, so its alternatives rarely change the reward.")
    if node.preferences >= _ENOUGH and node.win_rate is not None:
        if node.win_rate < _SOME:
            found.append(f"{node.node}: alternatives almost never win; it is near its best.")
        elif node.win_rate >= 0.55:
            found.append(f"{node.node}: alternatives win {node.win_rate:.0%}, so much is to gain.")
    update = node.last_update
    if (node.preferences or node.targets) and update is None:
        found.append(f"{node.node}: it has data, and was never updated.")
    if update is not None and update.margin is not None and update.margin < 0:
        found.append(
            f"{node.node}: the policy prefers what was rejected"
            f" (margin {number(update.margin, 2)})."
        )
    outputs = node.steps + node.rollouts
    if outputs and node.truncated > _SOME * outputs and node.tokens:
        found.append(f"{node.node}: {node.truncated:,} outputs were cut off by max_new_tokens.")
    return found + _of_outputs(node)


def _of_outputs(node: NodeSummary) -> list[str]:
    """Whether a node has come to say one thing, or nothing, whatever it is asked."""
    common = node.commonest
    if common is None or common.calls < _ENOUGH:
        return []
    share = f"{node.node}: {common.times} of its latest {common.calls} outputs are"
    if not common.output.strip() and common.times > _SOME * common.calls:
        return [f"{share} empty."]
    if common.times > _HALF * common.calls:
        return [f"{share} the same: {shortened(one_line(common.output), _SHOWN)}"]
    return []
