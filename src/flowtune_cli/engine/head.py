"""A node's head: named parameters that are learned beside its adapter; see ``flow.node.Score``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..flow.errors import UsageError


class Head:
    """Named scalar parameters, float32.

    Args:
        initial: the parameters' names and initial values.
    """

    def __init__(self, initial: Mapping[str, float]) -> None:
        self.names = tuple(initial)
        self.weights = nn.Parameter(torch.tensor(list(initial.values()), dtype=torch.float32))

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name, each a scalar that gradients go through."""
        return dict(zip(self.names, self.weights.unbind(), strict=True))

    def values(self) -> dict[str, float]:
        """The parameters by name, as numbers."""
        return dict(zip(self.names, self.weights.tolist(), strict=True))

    @torch.no_grad()
    def load(self, values: Mapping[str, float], source: str) -> None:
        """Set the parameters to what ``values`` returned.

        Args:
            source: where they come from, for the error.

        Raises:
            UsageError: the names differ.
        """
        if set(values) != set(self.names):
            listed = [", ".join(sorted(names)) or "nothing" for names in (values, self.names)]
            raise UsageError(
                f"{source} holds a head with other parameters than its node has now:"
                f" {listed[0]} there, {listed[1]} here"
            )
        self.weights.copy_(torch.tensor([values[name] for name in self.names]))
