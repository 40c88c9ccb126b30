"""The finding that a flow samples, and each alternative is judged by one ending."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...flow.deviation import Trace
from .finding import Finding


def sampling_findings(traces: Sequence[Trace], rollouts: int) -> Iterator[Finding]:
    """A note for each example where something was drawn behind a step that was deviated from.

    Args:
        rollouts: the setting of that name.
    """
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
