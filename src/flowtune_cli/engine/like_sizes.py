"""Groups of like sizes, each of which attends by one call, padded to its largest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

_CALL_COST = 48
"""What a call of attention costs a processor beside its tokens, in tokens."""


def launches_are_dear(device: Any) -> bool:
    """Whether padding costs less than more calls: on all but processors, where each call in each
    layer is several launches, and these take longer than the work of a few hundred tokens."""
    return torch.device(device).type != "cpu"


def groups_of_like_lengths(lengths: Sequence[int], device: Any) -> list[list[int]]:
    """Groups in which padding costs less than calls for more groups.

    Returns:
        Indices, those of a group in ascending order.
    """
    if launches_are_dear(device):
        return size_classes([(length,) for length in lengths])
    return like_lengths(lengths)


def size_classes(sizes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Groups in which no size is twice another one or more, so padding at most doubles each.

    There are as many groups as there are powers of two among the sizes, however many these are.

    Args:
        sizes: of each member, one or several.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, of_member in enumerate(sizes):
        groups.setdefault(tuple(size.bit_length() for size in of_member), []).append(i)
    return list(groups.values())


def like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Groups of like lengths, in which padding costs less than a call of attention for another.

    Returns:
        Indices, those of a group in ascending order.
    """
    groups: list[list[int]] = []
    longest = padding = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        padding += longest - lengths[i]
        if not groups or padding > _CALL_COST:
            groups.append([])
            longest, padding = lengths[i], 0
        groups[-1].append(i)
    return [sorted(group) for group in groups]
