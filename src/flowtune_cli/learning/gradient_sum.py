"""The gradients of a step, summed over its parts and over the processes that computed them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .exact_sum import ExactSum
from .peers import Peers


class GradientSum:
    """Takes the gradients of part after part out of parameters, and puts their sum there.

    Args:
        parameters: those of one adapter.
        parts: how many parts there are, on all processes together. The gradients of a single one
            are their own sum.

    Attributes:
        present: of each parameter, whether some part had a gradient for it. Optimizers leave those
            alone that have none, which a gradient of zeros would move.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], parts: int) -> None:
        self._parameters = parameters
        self._single = parts == 1
        self._sum: ExactSum | None = None
        self.present = [False] * len(parameters)

    def add(self) -> None:
        """Add the gradients that are there now."""
        gradients = [parameter.grad for parameter in self._parameters]
        self.present = [
            before or gradient is not None
            for before, gradient in zip(self.present, gradients, strict=True)
        ]
        if not self._single:
            self._exact().add(self._flat())
            for parameter in self._parameters:
                parameter.grad = None

    def put(self, present: Sequence[Sequence[bool]], peers: Peers) -> None:
        """Make the sum the gradients of the parameters, on all processes.

        Args:
            present: that attribute of all processes.
        """
        if self._single and peers.size == 1:
            return
        if self._single:
            total = peers.total(self._flat())
        else:
            exact = self._exact()
            exact.parts = peers.total(exact.parts)
            total = exact.value()
        anywhere = [any(flags) for flags in zip(*present, strict=True)]
        begin = 0
        for parameter, is_present in zip(self._parameters, anywhere, strict=True):
            end = begin + parameter.numel()
            gradient = total[begin:end].view_as(parameter).to(parameter)
            parameter.grad = gradient if is_present else None
            begin = end

    def _exact(self) -> ExactSum:
        if self._sum is None:
            length = sum(parameter.numel() for parameter in self._parameters)
            self._sum = ExactSum(length, self._parameters[0].device)
        return self._sum

    def _flat(self) -> Tensor:
        """The gradients that are there, end to end, float32; zeros where there are none."""
        device = self._parameters[0].device
        return torch.cat(
            [
                torch.zeros(parameter.numel(), device=device)
                if parameter.grad is None
                else parameter.grad.flatten().to(device, torch.float32)
                for parameter in self._parameters
            ]
        )
