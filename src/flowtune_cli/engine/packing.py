"""Packing: sequences that begin alike share a row, in which a common prefix comes once.

A row holds a prefix tree, segment after segment: the tokens of a segment continue those of its
parent, and attend to it and its ancestors alone, whatever comes between them in the row. What a
model makes of each sequence is what it would make of it alone; gradients add up in the prefixes
that sequences share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

Ids = tuple[int, ...]

MIN_SHARED_TOKENS = 16
"""Tokens of a prefix that is worth sharing."""


@dataclass
class Row:
    """Sequences in one row, segment after segment; parents before their children.

    Args:
        ids: the tokens.
        positions: each token's place in its sequence.
        segments: each token's segment.
        parents: each segment's parent; None for the first.
        columns: for each sequence, those of its tokens.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    parents: list[int | None] = field(default_factory=list)
    columns: dict[Ids, list[int]] = field(default_factory=dict)

    def _add(self, group: Sequence[Ids], covered: list[int], parent: int | None) -> None:
        """Add sorted sequences, which share the tokens in the columns ``covered``."""
        begin, end = len(covered), common_length(group[0], group[-1])
        if end > begin:
            first = len(self.ids)
            self.ids += group[0][begin:end]
            self.positions += range(begin, end)
            self.segments += [len(self.parents)] * (end - begin)
            self.parents.append(parent)
            parent = len(self.parents) - 1
            covered = [*covered, *range(first, len(self.ids))]
        if len(group[0]) == end:
            self.columns[group[0]] = covered
            group = group[1:]
        for _, branch in groupby(group, key=lambda ids: ids[end]):
            self._add(list(branch), covered, parent)


def pack(sequences: Sequence[Ids], min_shared: float = MIN_SHARED_TOKENS) -> list[Row]:
    """Put each different sequence in a row, with others that begin as it does.

    Args:
        min_shared: how many tokens sequences of one row have in common at least: 0 is one row for
            all, infinity a row for each.
    """
    rows: list[Row] = []

    def split(group: list[Ids]) -> None:
        common = common_length(group[0], group[-1])
        if len(group) == 1 or common >= min_shared:
            rows.append(Row())
            rows[-1]._add(group, [], None)
            return
        if len(group[0]) == common:
            split(group[:1])
            group = group[1:]
        for _, branch in groupby(group, key=lambda ids: ids[common]):
            split(list(branch))

    ordered = sorted({ids for ids in sequences if ids})
    if ordered:
        split(ordered)
    return rows


def tree_mask(rows: Sequence[Row], columns: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Positions, and the additive mask that keeps branches apart; empty if no row has branches.

    Returns:
        ``position_ids`` of shape (rows, columns), and ``attention_mask`` of shape
        (rows, 1, columns, columns): 0 where a column may attend, else the dtype's least value.
    """
    if all(len(row.parents) <= 1 for row in rows):
        return {}
    positions = torch.zeros((len(rows), columns), dtype=torch.long)
    allowed = torch.ones((columns, columns), dtype=torch.bool).tril().repeat(len(rows), 1, 1)
    for number, row in enumerate(rows):
        length = len(row.ids)
        positions[number, :length] = torch.tensor(row.positions)
        ancestors = torch.eye(len(row.parents), dtype=torch.bool)
        for segment, parent in enumerate(row.parents):
            if parent is not None:
                ancestors[segment] |= ancestors[parent]
        segments = torch.tensor(row.segments)
        allowed[number, :length, :length] &= ancestors[segments][:, segments]
    mask = torch.zeros((len(rows), 1, columns, columns), dtype=dtype)
    mask.masked_fill_(~allowed[:, None], torch.finfo(dtype).min)
    return {"position_ids": positions, "attention_mask": mask}


def common_length(one: Ids, other: Ids) -> int:
    """The length of the longest common prefix."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))
