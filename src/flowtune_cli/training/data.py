"""The data that one mini-batch gives to each node: preferences from deviations, and targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..flow.deviation import Preference, Trace
from ..flow.node import Datum, Node, PreferenceDatum, Response


@dataclass
class NodeData:
    """What one node learns from.

    Args:
        data: for its adapter.
        preferences, targets: where they came from; a self-learning node learns from these.
    """

    data: list[Datum] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)
    targets: list[tuple[Response, Any]] = field(default_factory=list)


def collect(nodes: Mapping[str, Node], traces: Sequence[Trace]) -> dict[str, NodeData]:
    """Each node's data, in the order of the traces; nodes without any are left out.

    Preferences go to nodes that learn from them and targets to supervised ones. An episode that
    failed gives neither.
    """
    found: dict[str, NodeData] = {}
    for trace in traces:
        if trace.episode.failure is not None:
            continue
        for preference in trace.preferences:
            node = nodes[preference.node]
            mine = found.setdefault(preference.node, NodeData())
            mine.preferences.append(preference)
            chosen, rejected = preference.chosen.score, preference.rejected.score
            if chosen is not None and rejected is not None:
                weight = preference.margin * node.weight
                mine.data.append(PreferenceDatum(node.name, chosen, rejected, weight))
        for target in trace.episode.targets:
            step = trace.episode.steps[target.step]
            node = nodes[step.node]
            if node.learn != "supervised":
                continue
            mine = found.setdefault(step.node, NodeData())
            mine.targets.append((step.response, target.gold))
            mine.data += node.target_data(step.response, target.gold)
    return {name: found[name] for name in nodes if name in found}
