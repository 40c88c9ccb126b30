"""The optimizers: one for each adapter, with its nodes' heads as parameter groups of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..config.optimizers import OptimizerChoice, node_choices, shared_choices
from ..config.settings import LearningSettings
from ..engine.adapters import Adapters
from ..flow.errors import UsageError
from ..flow.node import Node
from .optimizer_state import (
    group_options,
    load_optimizer_state,
    load_state,
    on_cpu,
    save_state,
)
from .optimizer_state import optimizer_state as changed_state
from .optimizer_trial import check_resumes

Factory = Callable[..., torch.optim.Optimizer]
"""``factory(parameters, **options)``."""

WriteError = SafetensorError
"""What a failed write of weights raises, besides OSError."""


class NodeOptimizers:
    """An optimizer for each adapter, by its name.

    Args:
        adapters: the parameters.
        settings: ``learning.optimizer``, which nodes may override.
        nodes: by name.
        factories: the registered optimizers, by name.

    Attributes:
        names: the name of each adapter's optimizer.

    Raises:
        UsageError: options do not fit their optimizer, or it could not resume exactly.
    """

    def __init__(
        self,
        adapters: Adapters,
        settings: LearningSettings,
        nodes: Mapping[str, Node],
        factories: Mapping[str, Factory],
    ) -> None:
        self.names: dict[str, str] = {}
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        self._at_first: dict[str, list[dict[str, Any]]] = {}
        tried: list[OptimizerChoice] = []
        for name in adapters.names:
            sharing = [nodes[node] for node in adapters.nodes_of(name)]
            choice, head_choices = shared_choices(settings, sharing, owner=nodes[name])
            weights = adapters.weights(name)
            optimizer = _make(factories, choice, weights)
            if choice not in tried:
                tried.append(choice)
                trial = [max(weights, key=lambda weight: weight.numel())]
                check_resumes(partial(_make, factories, choice), trial, choice)
            for node, head_choice in head_choices.items():
                if node in adapters.heads:
                    of_head = _make(factories, head_choice, [adapters.heads[node].weights])
                    optimizer.add_param_group(of_head.param_groups[0])
            self.names[name] = choice.name
            self._optimizers[name] = optimizer
            self._at_first[name] = group_options(optimizer)

    def __getitem__(self, adapter: str) -> torch.optim.Optimizer:
        return self._optimizers[adapter]

    def state(self, node: str) -> dict[str, Any]:
        """What steps have changed in a node's optimizer, with tensors on the CPU."""
        state: dict[str, Any] = on_cpu(changed_state(self[node], self._at_first[node]))
        return state

    def set_state(self, node: str, state: Mapping[str, Any]) -> None:
        """Make a node's optimizer what it was where ``state`` was called."""
        load_optimizer_state(self[node], state)

    def save(self, directory: Path) -> None:
        """Write every optimizer's state: ``directory/ADAPTER.safetensors``."""
        directory.mkdir(parents=True)
        for name, optimizer in self._optimizers.items():
            state = changed_state(optimizer, self._at_first[name])
            save_state(state, directory / f"{name}.safetensors")

    def load(self, directory: Path) -> None:
        """Read what ``save`` wrote, so that training continues exactly.

        Raises:
            UsageError: a state is missing, cannot be read, or is of another optimizer.
        """
        for name in self._optimizers:
            self.load_one(name, directory / f"{name}.safetensors")

    def load_one(self, name: str, path: Path) -> None:
        """Read the state of one adapter's optimizer.

        Raises:
            UsageError: it is missing, cannot be read, or is of another optimizer.
        """
        if not path.is_file():
            raise UsageError(f"there is no optimizer state of node '{name}': {path} is missing")
        state = load_state(path)
        try:
            load_optimizer_state(self._optimizers[name], state)
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"the optimizer state in {path} does not fit '{self.names[name]}' of node"
                f" '{name}': {error}"
            ) from None


def check_optimizers(
    settings: LearningSettings, nodes: Iterable[Node], factories: Mapping[str, Factory]
) -> None:
    """Make each optimizer for a single number, before a model is loaded.

    Raises:
        UsageError: options do not fit their optimizer.
    """
    by_name = {node.name: node for node in nodes}
    for node in by_name.values():
        if node.adapter_name is not None:
            owner = by_name.get(node.share or node.name, node)
            for choice in node_choices(settings, node, owner):
                _make(factories, choice, [torch.nn.Parameter(torch.zeros(1))])


def _make(
    factories: Mapping[str, Factory], choice: OptimizerChoice, parameters: Sequence[Tensor]
) -> torch.optim.Optimizer:
    try:
        return factories[choice.name](parameters, **choice.options)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{choice.where} does not fit '{choice.name}': {error}."
            f" See 'flowtune show {choice.name}'."
        ) from None
