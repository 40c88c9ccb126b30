"""The optimizers of the nodes: one per adapter, with its head as a parameter group of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..config.optimizers import OptimizerChoice, optimizer_choices
from ..config.settings import LearningSettings
from ..engine.adapters import Adapters
from ..flow.errors import UsageError
from ..flow.node import Node

Factory = Callable[..., torch.optim.Optimizer]
"""``factory(parameters, **options)``."""

WriteError = SafetensorError
"""What a failed write of weights raises, besides OSError."""


class NodeOptimizers:
    """An optimizer for each node that has an adapter, by the node's name.

    Args:
        adapters: the parameters.
        settings: ``learning.optimizer``, which nodes may override.
        nodes: by name.
        factories: the registered optimizers, by name.

    Attributes:
        names: the name of each node's optimizer.

    Raises:
        UsageError: options do not fit their optimizer.
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
        for name in adapters.nodes:
            choice, head_choice = optimizer_choices(settings, nodes[name])
            head = adapters.heads.get(name)
            weights = adapters.parameters(name)
            if head is not None:
                weights = [p for p in weights if p is not head.weights]
            optimizer = _make(factories, weights, choice)
            if head is not None:
                of_head = _make(factories, [head.weights], head_choice)
                optimizer.add_param_group(of_head.param_groups[0])
            self.names[name] = choice.name
            self._optimizers[name] = optimizer

    def __getitem__(self, node: str) -> torch.optim.Optimizer:
        return self._optimizers[node]

    def save(self, directory: Path) -> None:
        """Write every optimizer's state as safetensors: ``directory/NODE.safetensors``."""
        directory.mkdir(parents=True)
        for node, optimizer in self._optimizers.items():
            tensors = {
                f"{index}.{key}": torch.as_tensor(value).detach().cpu().contiguous()
                for index, state in optimizer.state_dict()["state"].items()
                for key, value in state.items()
            }
            save_file(tensors, directory / f"{node}.safetensors")

    def load(self, directory: Path) -> None:
        """Read what ``save`` wrote, so that training continues exactly.

        Raises:
            UsageError: a node's state is missing, or cannot be read.
        """
        for node, optimizer in self._optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            try:
                tensors = load_file(directory / f"{node}.safetensors")
            except (OSError, SafetensorError) as error:
                raise UsageError(f"there is no optimizer state of node '{node}': {error}") from None
            for name, value in tensors.items():
                index, key = name.split(".", 1)
                state.setdefault(int(index), {})[key] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})


def check_optimizers(
    settings: LearningSettings, nodes: Iterable[Node], factories: Mapping[str, Factory]
) -> None:
    """Make each optimizer for a single number, before a model is loaded.

    Raises:
        UsageError: options do not fit their optimizer.
    """
    for node in nodes:
        if node.adapter is not None:
            for choice in optimizer_choices(settings, node):
                _make(factories, [torch.nn.Parameter(torch.zeros(1))], choice)


def _make(
    factories: Mapping[str, Factory], parameters: Sequence[Tensor], choice: OptimizerChoice
) -> torch.optim.Optimizer:
    try:
        return factories[choice.name](parameters, **choice.options)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{choice.where} does not fit '{choice.name}': {error}."
            f" See 'flowtune show {choice.name}'."
        ) from None
