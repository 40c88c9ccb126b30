"""Which optimizer a node learns with: ``learning.optimizer``, changed by its own settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..flow.errors import UsageError
from ..flow.named import name_and_options
from ..flow.node import Node
from .settings import LearningSettings


@dataclass(frozen=True)
class OptimizerChoice:
    """An optimizer by its registered name.

    Args:
        node: whose own setting changed it; "" if it is that of all nodes.
        setting: which one it is, "optimizer" or "head_optimizer".
    """

    name: str
    options: Mapping[str, Any]
    node: str = ""
    setting: str = "learning.optimizer"

    @property
    def where(self) -> str:
        """The setting, as an error names it."""
        return f"{self.setting} of node '{self.node}'" if self.node else self.setting


def optimizer_choices(
    learning: LearningSettings, node: Node
) -> tuple[OptimizerChoice, OptimizerChoice]:
    """The optimizers of a node's adapter and of its head, the parameters learned beside it.

    Raises:
        ValueError: a choice has no name.
        UsageError: the head's is another optimizer than the adapter's: they are groups of
            parameters of one optimizer.
    """
    shared = OptimizerChoice(*name_and_options(learning.optimizer))
    adapter = _changed(shared, node, "optimizer")
    return adapter, _head_choice(adapter, node)


def _head_choice(adapter: OptimizerChoice, node: Node) -> OptimizerChoice:
    head = _changed(adapter, node, "head_optimizer")
    if head.name != adapter.name:
        raise UsageError(
            f"the head of node '{node.name}' cannot learn with '{head.name}', as its adapter learns"
            f" with '{adapter.name}': they have one optimizer, with options of their own"
        )
    return head


def node_choices(
    learning: LearningSettings, node: Node, owner: Node
) -> tuple[OptimizerChoice, OptimizerChoice]:
    """The optimizers of the adapter that a node uses, and of its head.

    Args:
        owner: whose adapter it is.

    Raises:
        ValueError, UsageError: see ``shared_choices``.
    """
    adapter, heads = shared_choices(learning, [node], owner)
    return adapter, heads[node.name]


def shared_choices(
    learning: LearningSettings, sharing: Iterable[Node], owner: Node
) -> tuple[OptimizerChoice, dict[str, OptimizerChoice]]:
    """The optimizer of an adapter, and those of the heads of the nodes that use it, by node.

    The node that owns an adapter says how it learns; another that shares it may say the same.

    Raises:
        ValueError, UsageError: see ``optimizer_choices``; or two nodes say different things.
    """
    adapter, _ = optimizer_choices(learning, owner)
    heads = {}
    for node in sharing:
        own = adapter if node.optimizer is None else optimizer_choices(learning, node)[0]
        if (own.name, own.options) != (adapter.name, adapter.options):
            raise UsageError(
                f"node '{node.name}' shares the adapter of node '{owner.name}', and has another"
                f" optimizer ({_text(own)}, not {_text(adapter)}): an adapter has one. Set it at"
                f" '{owner.name}' alone."
            )
        heads[node.name] = _head_choice(adapter, node)
    return adapter, heads


def _text(choice: OptimizerChoice) -> str:
    options = [f"{name} = {value!r}" for name, value in choice.options.items()]
    return f"'{choice.name}'" + (f" with {', '.join(options)}" if options else "")


def _changed(base: OptimizerChoice, node: Node, setting: str) -> OptimizerChoice:
    """A choice with a node's setting applied: a whole optimizer, or single options."""
    value: Mapping[str, Any] | str | None = getattr(node, setting)
    if value is None:
        return base
    if isinstance(value, str) or "name" in value:
        return OptimizerChoice(*name_and_options(value), node.name, setting)
    return OptimizerChoice(base.name, {**base.options, **value}, node.name, setting)
