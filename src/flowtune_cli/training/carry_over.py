"""What a new run takes from another one's checkpoint: what fits the nodes that it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..engine.adapters import Adapters
from ..engine.stored_adapters import StoredNode, stored_nodes
from ..flow.adapters import why_untrained
from ..flow.errors import UsageError
from ..flow.node import Node, SelfLearning
from ..learning.learner import Learner
from .checkpoint import node_states, optimizer_names


def taken_nodes(
    checkpoint: Path | None, nodes: Sequence[Node], renamed: Mapping[str, str]
) -> dict[str, str]:
    """The nodes that have an adapter in a checkpoint, each with its name there.

    Args:
        renamed: by the name of a node here, its name there.
    """
    if checkpoint is None:
        return {}
    stored = stored_nodes(checkpoint / "adapters")
    return {new: old for new, old in _names(nodes, renamed).items() if old in stored}


def _names(nodes: Sequence[Node], renamed: Mapping[str, str]) -> dict[str, str]:
    """A node whose name another one had has a new name, or is a new node."""
    given_away = set(renamed.values())
    return {
        node.name: renamed.get(node.name, node.name)
        for node in nodes
        if node.name in renamed or node.name not in given_away
    }


def carry_over(
    checkpoint: Path,
    adapters: Adapters,
    learner: Learner,
    nodes: Sequence[Node],
    renamed: Mapping[str, str],
) -> Iterator[str]:
    """Take what fits, with every reference set to its trained adapter; yields what was done.

    Raises:
        UsageError: an adapter that fits by its name does not by its shape, or cannot be read.
    """
    directory = checkpoint / "adapters"
    taken = taken_nodes(checkpoint, nodes, renamed)
    stored = stored_nodes(directory)
    adapters.load(directory, taken=taken, reset_references=True)
    names, states = _names(nodes, renamed), node_states(checkpoint)
    optimizers = optimizer_names(checkpoint)
    for node in nodes:
        old = names.get(node.name)
        called = "" if old in (None, node.name) else f" (there '{old}')"
        if isinstance(node, SelfLearning):
            if old in states:
                node.load_state(states[old])
                yield f"node '{node.name}'{called} goes on with what it has learned by itself"
            else:
                yield f"node '{node.name}' is not in the run: it begins anew"
        elif (name := adapters.owners.get(node.name)) is None:
            why = why_untrained(node) or "it plays the base model, as the run has no adapter of it"
            yield f"node '{node.name}' takes nothing: {why}"
        elif name != node.name:
            yield f"node '{node.name}'{called} uses the adapter of '{name}'"
        elif name not in taken:
            yield f"node '{node.name}' has no adapter in the run: it begins anew"
        else:
            there = stored[taken[name]]
            state = _optimizer(name, there, checkpoint, learner, optimizers)
            updates = adapters.version(name)
            yield f"node '{node.name}'{called} goes on with its adapter ({updates} updates){state}"
    left = [node for node in (*stored, *states) if node not in names.values()]
    if left:
        yield f"left behind, as the task has no such nodes: {', '.join(left)}"


def _optimizer(
    name: str,
    there: StoredNode,
    checkpoint: Path,
    learner: Learner,
    optimizers: Mapping[str, str],
) -> str:
    """Take the optimizer's state, if it is of the same kind; says what is to be said of it."""
    kind = optimizers.get(there.adapter)
    if kind != learner.optimizers.names[name]:
        return f"; the optimizer state starts fresh: the checkpoint's is of '{kind}'"
    try:
        file = f"{there.adapter}.safetensors"
        learner.optimizers.load_one(name, checkpoint / "optimizers" / file)
    except UsageError as error:
        return f"; the optimizer state starts fresh: {error}"
    return " and its optimizer state"
