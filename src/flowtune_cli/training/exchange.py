"""What a process that has updated a node sends to the others: all that the update has changed."""

from __future__ import annotations

from typing import Any

from ..flow.node import Node, SelfLearning
from ..learning.learner import Learner


def get_state(node: Node, learner: Learner) -> Any:
    """The state of a node that was updated here; it can be pickled."""
    return node.state() if isinstance(node, SelfLearning) else learner.state(node.name)


def set_state(node: Node, learner: Learner, state: Any) -> None:
    """Make a node what another process's ``get_state`` has found."""
    if isinstance(node, SelfLearning):
        node.load_state(state)
    else:
        learner.set_state(node.name, state)
