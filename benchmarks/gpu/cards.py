"""What a card can do at best, by its name: the maker's figures, without sparsity."""

from __future__ import annotations

from typing import NamedTuple


class Card(NamedTuple):
    """Dense bfloat16 products in FLOP/s, and memory in bytes a second."""

    flops: float
    bandwidth: float


_CARDS = {
    "H200": Card(989e12, 4.8e12),
    "H100 NVL": Card(835e12, 3.9e12),
    "H100 PCIe": Card(756e12, 2.0e12),
    "H100": Card(989e12, 3.35e12),
    "A100-SXM4-80GB": Card(312e12, 2.04e12),
}
"""By a part of the name, the more special one first."""


def card(name: str) -> Card | None:
    """The best that a card of this name can do; None if it is not known here."""
    return next((best for part, best in _CARDS.items() if part in name), None)
