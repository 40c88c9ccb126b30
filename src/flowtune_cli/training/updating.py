"""All nodes learn from one mini-batch, at once: adapters by the learner, other nodes by themselves.

Several processes share the work out, and are the same afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..flow.episode import Failure
from ..flow.errors import FlowtuneError
from ..flow.node import Datum, Node, SelfLearning
from ..flow.numbers import real_number
from ..learning.learner import Learner, Update
from ..learning.peers import Peers
from ..runs.batch import UpdateRecord
from .data import NodeData
from .exchange import get_state, set_state
from .session import Session


class Updating:
    """Updates the nodes of a session.

    Args:
        peers: all of them have the same data.
    """

    def __init__(self, session: Session, learner: Learner, peers: Peers) -> None:
        self.session = session
        self.learner = learner
        self.peers = peers

    def learn(self, collected: Mapping[str, NodeData]) -> list[UpdateRecord]:
        """Update every node that has data; the others stay bit-identical.

        Raises:
            FlowtuneError: see ``Learner.update``; or a node failed as it learned by itself.
        """
        # Frees memory for learning.
        self.session.engine.forget(keep=self.learner.losses.frozen_prefixes(_all_data(collected)))
        units: dict[str, dict[str, NodeData]] = {}
        for name, node_data in collected.items():
            # What learns: an adapter, which nodes may share, or a node by itself.
            owner = self.session.adapters.owners.get(name, name)
            units.setdefault(owner, {})[name] = node_data
        made: dict[str, UpdateRecord] = {}
        in_one_step = self.session.settings.learning.step_per == "batch"
        # Steps that follow one another cannot be shared out, but what learns can.
        apart = [name for name in units if self._learns_by_itself(name) or not in_one_step]
        own = self.learner.share([_all_data(units[name]) for name in apart], self.peers)
        each = self.peers.each(lambda: [self._updated(apart[n], units) for n in own])
        for rank, of_one in enumerate(each):
            for owner, records, state in of_one:
                made.update(records)
                if rank != self.peers.rank:
                    set_state(self.session.task.node(owner), self.learner, state)
        made |= self._update_together({n: of_it for n, of_it in units.items() if n not in apart})
        return [made[name] for name in collected]

    def _learns_by_itself(self, name: str) -> bool:
        return isinstance(self.session.task.node(name), SelfLearning)

    def _updated(
        self, owner: str, units: Mapping[str, Mapping[str, NodeData]]
    ) -> tuple[str, dict[str, UpdateRecord], Any]:
        """What this process has updated, by which records, and its state for the others."""
        records = self._update(owner, units[owner])
        alone = self.peers.size == 1
        node = self.session.task.node(owner)
        return owner, records, None if alone else get_state(node, self.learner)

    def _update(self, owner: str, collected: Mapping[str, NodeData]) -> dict[str, UpdateRecord]:
        """Update an adapter from the data of all nodes that use it; or a node by itself."""
        node = self.session.task.node(owner)
        if isinstance(node, SelfLearning):
            return {owner: _self_update(node, collected[owner])}
        data = _with_data(collected)
        before = self.session.adapters.version(owner)
        updates = self.session.update(self.learner, owner, data) if data else {}
        return self._records(owner, collected, before, updates)

    def _update_together(
        self, units: Mapping[str, Mapping[str, NodeData]]
    ) -> dict[str, UpdateRecord]:
        """Have adapters make one step each, from the data of all nodes that use them."""
        data = {owner: found for owner, unit in units.items() if (found := _with_data(unit))}
        before = {owner: self.session.adapters.version(owner) for owner in units}
        updates = self.session.update_together(self.learner, data, self.peers) if data else {}
        records: dict[str, UpdateRecord] = {}
        for owner, unit in units.items():
            records |= self._records(owner, unit, before[owner], updates.get(owner, {}))
        return records

    def _records(
        self,
        owner: str,
        collected: Mapping[str, NodeData],
        before: int,
        updates: Mapping[str, Update],
    ) -> dict[str, UpdateRecord]:
        adapters = self.session.adapters
        after, drift = adapters.version(owner), adapters.distance(owner) if updates else None
        return {
            name: _record(name, node_data, before, after, updates.get(name), drift)
            for name, node_data in collected.items()
        }


def _all_data(collected: Mapping[str, NodeData]) -> list[Datum]:
    return [datum for node_data in collected.values() for datum in node_data.data]


def _with_data(collected: Mapping[str, NodeData]) -> dict[str, list[Datum]]:
    return {name: node_data.data for name, node_data in collected.items() if node_data.data}


def _record(
    node: str,
    node_data: NodeData,
    before: int,
    after: int,
    update: Update | None,
    drift: float | None,
) -> UpdateRecord:
    """What is stored of a node's part in an update of its adapter, if it had data for it."""
    record = UpdateRecord(
        node, before, after, 0, len(node_data.preferences), len(node_data.targets)
    )
    if update is None:
        return record
    return replace(
        record,
        data=update.data,
        loss=update.loss,
        margin=update.margin,
        accuracy=update.accuracy,
        gradient_norm=update.gradient_norm,
        reference_drift=drift,
    )


def _self_update(node: SelfLearning, node_data: NodeData) -> UpdateRecord:
    assert isinstance(node, Node)
    loss = _self_learned(node, node_data)
    preferences, targets = len(node_data.preferences), len(node_data.targets)
    return UpdateRecord(node.name, 0, 0, preferences + targets, preferences, targets, loss)


def _self_learned(node: SelfLearning, node_data: NodeData) -> float:
    """The loss of a node that learns by itself."""
    assert isinstance(node, Node)
    try:
        return real_number(node.update(node_data.preferences, node_data.targets))
    except FlowtuneError:
        raise
    except Exception as error:
        raise FlowtuneError(
            f"node '{node.name}' failed while it learned by itself ({type(node).__name__}.update),"
            f" and what it has learned may be incomplete:\n{Failure.of(error).traceback}"
        ) from error
