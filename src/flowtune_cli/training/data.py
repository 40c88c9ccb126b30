"""The training data of one mini-batch, by node: preferences from deviations, and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..flow.deviation import Preference, Trace
from ..flow.node import Datum, Node, PreferenceDatum, Response


@dataclass
class NodeData:
    """One node's training data.

    Args:
        data: for its adapter.
        preferences, targets: their sources, which a self-learning node learns from directly.
    """

    data: list[Datum] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)
    targets: list[tuple[Response, Any]] = field(default_factory=list)


def collect(nodes: Sequence[Node], traces: Sequence[Trace]) -> dict[str, NodeData]:
    """Each node's data, in the order of the traces; nodes without data are omitted.

    Preferences go to nodes that learn from them and targets to supervised ones. An episode that
    failed contributes neither.
    """
    by_name = {node.name: node for node in nodes}
    found: dict[str, NodeData] = {}
    for trace in traces:
        if trace.episode.failure is not None:
            continue
        for preference in trace.preferences:
            node = by_name[preference.node]
            node_data = found.setdefault(preference.node, NodeData())
            node_data.preferences.append(preference)
            chosen, rejected = preference.chosen.score, preference.rejected.score
            if chosen is not None and rejected is not None:
                weight = preference.margin * node.weight
                node_data.data.append(PreferenceDatum(node.name, chosen, rejected, weight))
        for target in trace.episode.targets:
            step = trace.episode.steps[target.step]
            node = by_name[step.node]
            if node.learn != "supervised":
                continue
            node_data = found.setdefault(step.node, NodeData())
            node_data.targets.append((step.response, target.gold))
            node_data.data += node.target_data(step.response, target.gold)
    return {name: found[name] for name in by_name if name in found}
