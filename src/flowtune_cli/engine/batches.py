"""Splits rows of unlike lengths into forward passes."""

from __future__ import annotations

import math
from collections.abc import Sequence

PASS_COST = 48
"""What a forward pass costs beside its tokens, in tokens."""


def cheapest_batches(
    lengths: Sequence[int], budget: float, prefixes: Sequence[tuple[object, int]] | None = None
) -> list[list[int]]:
    """Split padded rows into forward passes so that the fewest tokens are computed.

    Args:
        lengths: each row's tokens.
        budget: the most tokens in one pass, padding included; a row that is longer goes alone.
        prefixes: what rows follow: for each row, a prefix and its length. A pass copies the keys
            and values of its prefixes, padded too, at a fourth of what reading them costs.

    Returns:
        The rows' indices, batch by batch: rows of like lengths, and of one length like prefixes.
    """
    order = sorted(
        range(len(lengths)), key=lambda i: (lengths[i], prefixes[i][1] if prefixes else 0)
    )
    # The least cost of the first rows, and where their last batch begins.
    best = [0]
    begins = [0]
    for end in range(1, len(order) + 1):
        length = lengths[order[end - 1]]
        found: tuple[int, int] | None = None
        copied: set[object] = set()
        longest = 0
        for begin in range(end - 1, -1, -1):
            copies = 0
            if prefixes is not None:
                prefix, prefix_length = prefixes[order[begin]]
                copied.add(prefix)
                longest = max(longest, prefix_length)
                copies = len(copied) * longest // 4
            tokens = length * (end - begin) + copies
            if found is not None and tokens > budget:
                break
            cost = best[begin] + tokens + PASS_COST
            if found is None or cost < found[0]:
                found = (cost, begin)
        assert found is not None
        best.append(found[0])
        begins.append(found[1])
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
