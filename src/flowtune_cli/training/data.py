"""The training data of one mini-batch, by node: preferences from deviations, and targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..flow.deviation import Preference, Trace
from ..flow.episode import Failure
from ..flow.errors import FlowtuneError
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

    def add(self, other: NodeData) -> None:
        self.data += other.data
        self.preferences += other.preferences
        self.targets += other.targets


def collect(nodes: Sequence[Node], traces: Sequence[Trace]) -> dict[str, NodeData]:
    """Each node's data, in the order of the traces; nodes without data are omitted.

    Preferences go to nodes that learn from them and targets to supervised ones. An episode that
    failed contributes neither. If a node raises an exception for a target, the episode fails here,
    and its preferences are dropped.

    Raises:
        FlowtuneError: a node cannot learn from such targets; names the example.
    """
    by_name = {node.name: node for node in nodes}
    found: dict[str, NodeData] = {}
    for trace in traces:
        if trace.episode.failure is not None:
            continue
        try:
            of_trace = list(_of_trace(by_name, trace))
        except FlowtuneError as error:
            raise type(error)(f"example '{trace.example.id}': {error}") from error
        except Exception as error:
            trace.episode.failure = Failure.of(error)
            trace.preferences.clear()
            continue
        for name, node_data in of_trace:
            found.setdefault(name, NodeData()).add(node_data)
    return {name: found[name] for name in by_name if name in found}


def _of_trace(by_name: Mapping[str, Node], trace: Trace) -> Iterator[tuple[str, NodeData]]:
    """The data of each preference and target, with the node's name."""
    for preference in trace.preferences:
        node = by_name[preference.node]
        data: list[Datum] = []
        chosen, rejected = preference.chosen.score, preference.rejected.score
        if chosen is not None and rejected is not None:
            weight = preference.margin * node.weight
            data.append(PreferenceDatum(node.name, chosen, rejected, weight))
        yield node.name, NodeData(data, preferences=[preference])
    for target in trace.episode.targets:
        step = trace.episode.steps[target.step]
        node = by_name[step.node]
        if node.learn == "supervised":
            targets = [(step.response, target.gold)]
            yield node.name, NodeData([*node.target_data(*targets[0])], targets=targets)
