"""Diverse beam search with groups of one beam (Vijayakumar et al. 2016, arXiv:1610.02424)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..flow.node import Exploration
from ..flow.request import Decoding


@dataclass(frozen=True)
class DiverseBeam(Exploration):
    """Each group is greedy but pays for tokens that earlier groups chose at the same position.

    The first group pays nothing, so it is the greedy output, and all are decoded in one batch.

    Args:
        penalty: taken from a token's log-probability for each earlier group that chose it.
        beams: groups to decode, of which the first different ones are kept; 0 means one more
            than the alternatives wanted.
    """

    name: ClassVar[str] = "diverse_beam"

    penalty: float = 5.0
    beams: int = 0

    def decoding(self, alternatives: int) -> Decoding:
        groups = self.beams or alternatives + 1
        return Decoding(groups=groups, diversity_penalty=self.penalty)
