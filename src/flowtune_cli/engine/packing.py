"""Packing: texts that begin alike are laid in one row, their common beginnings once.

A row holds the segments of a tree: the tokens of a segment follow those of its parent, and look
back at it and its ancestors alone, whatever stands between them in the row. What a model makes of
each text is what it would make of it alone; gradients add up in the beginnings that texts share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

Ids = tuple[int, ...]

SHORTEST = 16
"""Tokens of a beginning that is worth sharing."""


@dataclass
class Row:
    """Texts in one row, segment after segment; parents stand before their children.

    Args:
        ids: the tokens.
        positions: each token's place in its text.
        segments: each token's segment.
        parents: each segment's parent; None for the first.
        columns: for each text, where its tokens stand.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    parents: list[int | None] = field(default_factory=list)
    columns: dict[Ids, list[int]] = field(default_factory=dict)

    def _add(self, group: Sequence[Ids], covered: list[int], parent: int | None) -> None:
        """Lay sorted texts which share the tokens in the columns ``covered``."""
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
        for _, alike in groupby(group, key=lambda ids: ids[end]):
            self._add(list(alike), covered, parent)


def pack(texts: Sequence[Ids], *, share: bool = True, shortest: int = SHORTEST) -> list[Row]:
    """Lay each different text in a row, with others that begin as it does.

    Args:
        share: let texts share their beginnings; else each has a row of its own.
        shortest: how many tokens texts of one row have in common at least; 0 is one row for all.
    """
    rows: list[Row] = []

    def split(group: list[Ids]) -> None:
        common = common_length(group[0], group[-1])
        if len(group) == 1 or common >= shortest:
            rows.append(Row())
            rows[-1]._add(group, [], None)
            return
        if len(group[0]) == common:
            split(group[:1])
            group = group[1:]
        for _, alike in groupby(group, key=lambda ids: ids[common]):
            split(list(alike))

    ordered = sorted({ids for ids in texts if ids})
    if share and ordered:
        split(ordered)
    elif not share:
        for ids in ordered:
            split([ids])
    return rows


def masks(rows: Sequence[Row], columns: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Positions, and the additive mask that keeps texts apart; nothing if every row is one text.

    Returns:
        ``position_ids`` of shape (rows, columns), and ``attention_mask`` of shape
        (rows, 1, columns, columns): 0 where a column may look, else the dtype's least value.
    """
    if all(len(row.parents) <= 1 for row in rows):
        return {}
    positions = torch.zeros((len(rows), columns), dtype=torch.long)
    allowed = torch.ones((columns, columns), dtype=torch.bool).tril().repeat(len(rows), 1, 1)
    for number, row in enumerate(rows):
        length = len(row.ids)
        positions[number, :length] = torch.tensor(row.positions)
        seen = torch.eye(len(row.parents), dtype=torch.bool)
        for segment, parent in enumerate(row.parents):
            if parent is not None:
                seen[segment] |= seen[parent]
        segment_of = torch.tensor(row.segments)
        allowed[number, :length, :length] &= seen[segment_of][:, segment_of]
    mask = torch.zeros((len(rows), 1, columns, columns), dtype=dtype)
    mask.masked_fill_(~allowed[:, None], torch.finfo(dtype).min)
    return {"position_ids": positions, "attention_mask": mask}


def common_length(one: Ids, other: Ids) -> int:
    """How many tokens two texts have in common from their beginning."""
    for place, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return place
    return min(len(one), len(other))
