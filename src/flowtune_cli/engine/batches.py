"""Batches of rows of unlike lengths: the ones with the least to compute."""

from __future__ import annotations

import math
from collections.abc import Sequence

PASS_COSTS = 48
"""What a forward pass costs beside its tokens, in tokens."""


def batches(
    widths: Sequence[int], budget: float, parents: Sequence[tuple[object, int]] | None = None
) -> list[list[int]]:
    """Split rows into forward passes so that the fewest tokens are computed, padding included.

    Args:
        widths: each row's tokens.
        budget: the most tokens in one pass, padding included; a row that is longer goes alone.
        parents: for rows that go on from prompts, each one's prompt and its length. A pass lays its
            prompts' keys and values out anew, padded too, at a fourth of what reading them costs.

    Returns:
        The rows' indices, batch by batch: rows of like widths, and of one width like prompts.
    """
    order = sorted(range(len(widths)), key=lambda i: (widths[i], parents[i][1] if parents else 0))
    # The least cost of the first rows, and where their last batch begins.
    best = [0]
    begins = [0]
    for end in range(1, len(order) + 1):
        width = widths[order[end - 1]]
        found: tuple[int, int] | None = None
        laid: set[object] = set()
        longest = 0
        for begin in range(end - 1, -1, -1):
            beside = 0
            if parents is not None:
                prompt, length = parents[order[begin]]
                laid.add(prompt)
                longest = max(longest, length)
                beside = len(laid) * longest // 4
            padded = width * (end - begin) + beside
            if found is not None and padded > budget:
                break
            cost = best[begin] + padded + PASS_COSTS
            if found is None or cost < found[0]:
                found = (cost, begin)
        assert found is not None
        best.append(found[0])
        begins.append(found[1])
    split: list[list[int]] = []
    end = len(order)
    while end:
        split.append(order[begins[end] : end])
        end = begins[end]
    return split


def filled(widths: Sequence[float], budget: float) -> list[list[int]]:
    """Split rows, in their order, into as few passes as the budget allows, filled alike.

    Args:
        widths: each row's tokens.
        budget: the most tokens in one pass; a row that is longer goes alone.
    """
    share = sum(widths) / max(math.ceil(sum(widths) / budget), 1)
    split: list[list[int]] = []
    held = 0.0
    for row, width in enumerate(widths):
        if not split or held >= share or held + width > budget:
            split.append([])
            held = 0.0
        split[-1].append(row)
        held += width
    return split
