"""Independent samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..flow.node import Exploration
from ..flow.request import Decoding


@dataclass(frozen=True)
class MultiSample(Exploration):
    """Samples the alternatives, besides the greedy output.

    Args:
        temperature: above 1 is wilder, below 1 is tamer.
        top_p: sample from the smallest set of tokens with this much probability.
    """

    name: ClassVar[str] = "multi_sample"

    temperature: float = 1.0
    top_p: float = 1.0

    def decoding(self, alternatives: int) -> Decoding:
        return Decoding(samples=alternatives, temperature=self.temperature, top_p=self.top_p)
