"""Findings about flows that sample: one ending judges, or a setting counts for nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...flow.deviation import Trace
from ...flow.node import Node
from ...flow.task import Task
from .finding import Finding


def sampling_findings(task: Task, traces: Sequence[Trace], rollouts: int) -> Iterator[Finding]:
    """A note for each example where something was drawn behind a step that was deviated from, and
    for each node whose exploration is never asked for.

    Args:
        rollouts: the setting of that name.
    """
    steps = [step for trace in traces for step in trace.episode.steps]
    for node in task.nodes:
        sampled = {step.sampled for step in steps if step.node == node.name}
        if node.deviates and node.exploration != Node.exploration and sampled == {True}:
            yield Finding(
                "exploration-unused",
                "note",
                f"all calls of node '{node.name}' sample, so its alternatives are further samples,"
                " and its 'exploration' is not used",
                "Leave 'exploration' out, or play the node at a temperature of 0.",
                node=node.name,
            )
    if rollouts > 1:
        return
    for trace in traces:
        first = min((d.step for d in trace.deviations if d.rollout is not None), default=None)
        if first is None:
            continue
        drawn = [step.node for step in trace.episode.steps if step.sampled and step.index > first]
        if drawn:
            yield Finding(
                "one-ending",
                "note",
                f"node '{drawn[0]}' samples behind steps that others are judged by, and each"
                " alternative is played to one ending, so luck is part of what is learned",
                "Set training.rollouts to 2 or more to learn from the mean of several endings.",
                node=drawn[0],
                example=trace.example.id,
            )
