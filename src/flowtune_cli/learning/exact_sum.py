"""Sums of gradients that are the same to the bit in whatever order, on however many processes.

The first steps of Adam and COCOB go by signs alone, so a gradient near zero that is summed in
another order would turn a whole step round.
"""

from __future__ import annotations

import torch
from torch import Tensor

_COARSE, _FINE = 2.0**-20, 2.0**-62
"""What the parts of a number are multiples of. Sums of coarse parts are exact below 2**33 and of
fine ones for up to 2**11 numbers; beyond they are rounded, as float64 is. A float32 of 2**-39 or
more is the sum of its parts, a smaller one to within 2**-63."""

_ROUND_COARSE, _ROUND_FINE = (1.5 * 2.0**52 * unit for unit in (_COARSE, _FINE))
"""Added to a number and taken away again, these round it to a multiple."""


class ExactSum:
    """The sum of vectors of float32.

    Args:
        length: of the vectors.
        device: where the sum is kept, if it has float64; else on the processor.

    Attributes:
        parts: shape (2, length), float64: the sums of coarse and of fine parts. They may be summed
            over processes.
    """

    def __init__(self, length: int, device: torch.device) -> None:
        where = torch.device("cpu") if device.type == "mps" else device
        self.parts = torch.zeros((2, length), dtype=torch.float64, device=where)

    def add(self, vector: Tensor) -> None:
        """Add a vector of finite numbers."""
        exact = vector.to(self.parts.device, torch.float64)
        coarse = (exact + _ROUND_COARSE).sub_(_ROUND_COARSE)
        fine = (exact - coarse).add_(_ROUND_FINE).sub_(_ROUND_FINE)
        self.parts[0] += coarse
        self.parts[1] += fine

    def value(self) -> Tensor:
        """The sum, float32."""
        return (self.parts[0] + self.parts[1]).float()
