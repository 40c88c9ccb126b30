"""Splits rows of unlike lengths into forward passes."""

from __future__ import annotations

import math
from collections.abc import Sequence

PASS_COST = 48
"""What a forward pass costs beside its tokens, in tokens."""


def cheapest_batches(lengths: Sequence[float], budget: float) -> list[list[int]]:
    """Split padded rows into forward passes so that the fewest tokens are computed.

    Args:
        lengths: each row's tokens.
        budget: the most tokens in one pass, padding included; a row that is longer goes alone.

    Returns:
        The rows' indices, batch by batch: rows of like lengths, in ascending order.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    # The least cost of the first rows, and where their last batch begins.
    best = [0.0]
    begins = [0]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        # A batch of the last row alone, and then of more and more before it.
        begin = end - 1
        cost = best[begin] + longest + PASS_COST
        for more in range(end - 2, -1, -1):
            tokens = longest * (end - more)
            if tokens > budget:
                break
            if best[more] + tokens + PASS_COST < cost:
                begin, cost = more, best[more] + tokens + PASS_COST
        best.append(cost)
        begins.append(begin)
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[begins[end] : end])
        end = begins[end]
    return batches


def even_batches(lengths: Sequence[float], budget: float) -> list[list[int]]:
    """Split packed rows, in their order, into as few passes as possible, of about equal sizes.

    Args:
        lengths: each row's tokens.
        budget: the most tokens in one pass; a row that is longer goes alone.
    """
    share = sum(lengths) / max(math.ceil(sum(lengths) / budget), 1)
    batches: list[list[int]] = []
    tokens = 0.0
    for row, length in enumerate(lengths):
        if not batches or tokens >= share or tokens + length > budget:
            batches.append([])
            tokens = 0.0
        batches[-1].append(row)
        tokens += length
    return batches
