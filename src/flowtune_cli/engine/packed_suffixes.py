"""Suffixes packed into a row, and the attention of each to itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .attention import attend_with_lse
from .like_sizes import groups_of_like_lengths
from .transfers import to_device


class PackedSuffixes:
    """Suffixes end to end in a row; each token attends to those before it in its own.

    Args:
        lengths: of the suffixes.
        layers: how many layers' keys and values are kept: all or 0.
    """

    def __init__(self, lengths: Sequence[int], layers: int, device: Any) -> None:
        ends = list(accumulate(lengths))
        self.spans = list(zip([0, *ends[:-1]], ends, strict=True))
        self._groups = [
            _Group([self.spans[i] for i in members], device)
            for members in groups_of_like_lengths(lengths, device)
        ]
        # Where each token of the row is among those of the groups.
        places = [0] * sum(lengths)
        count = 0
        for group in self._groups:
            for column, place in group.places.items():
                places[column] = count + place
            count += group.slots
        # None: suffixes of one length lie end to end as they are.
        self._places: Tensor | None = None
        if len(self._groups) > 1 or places != list(range(count)):
            self._places = to_device(places, device)
        self._layers = layers
        self._kept: Tensor | None = None

    def keys_values(self, suffix: int) -> Tensor:
        """See ``Prefilled``."""
        assert self._kept is not None
        begin, end = self.spans[suffix]
        return self._kept[:, :, :, begin:end]

    def attend(
        self, layer: int, query: Tensor, keys: Tensor, values: Tensor, scale: float, with_lse: bool
    ) -> tuple[Tensor, Tensor | None]:
        """See ``cascade.Suffixes``."""
        if self._layers:
            if self._kept is None:
                tokens, heads, size = keys.shape
                self._kept = keys.new_empty((self._layers, 2, heads, tokens, size))
            self._kept[layer, 0] = keys.transpose(0, 1)
            self._kept[layer, 1] = values.transpose(0, 1)
        if self._places is None:
            return self._groups[0].attend(query, keys, values, scale, with_lse)
        outputs: list[Tensor] = []
        lses: list[Tensor] = []
        for group in self._groups:
            part, part_keys, part_values = (
                x.index_select(0, group.columns) for x in (query, keys, values)
            )
            output, lse = group.attend(part, part_keys, part_values, scale, with_lse)
            outputs.append(output)
            if lse is not None:
                lses.append(lse)
        output = torch.cat(outputs).index_select(0, self._places)
        return output, torch.cat(lses).index_select(0, self._places) if lses else None


class _Group:
    """Suffixes of like lengths, which attend by one call, padded to the longest.

    Args:
        spans: where they begin and end in the row.

    Attributes:
        columns: of all tokens; a suffix that is shorter than the longest repeats its last token, to
            which nothing before it attends.
        slots: how many these are.
        places: given a column, where it is among them.
    """

    def __init__(self, spans: Sequence[tuple[int, int]], device: Any) -> None:
        self.suffixes = len(spans)
        width = max(end - begin for begin, end in spans)
        columns: list[int] = []
        self.places: dict[int, int] = {}
        for begin, end in spans:
            self.places.update(
                (column, len(columns) + column - begin) for column in range(begin, end)
            )
            columns += [*range(begin, end), *[end - 1] * (width - end + begin)]
        self.slots = len(columns)
        self.columns = to_device(columns, device)

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, scale: float, with_lse: bool
    ) -> tuple[Tensor, Tensor | None]:
        """See ``cascade.Suffixes``; the tokens are those of ``columns``."""
        queries, keys, values = (
            x.unflatten(0, (self.suffixes, -1)).transpose(1, 2)
            for x in (query.flatten(1, 2), keys, values)
        )
        lse: Tensor | None = None
        if with_lse:
            output, lse = attend_with_lse(queries, keys, values, scale, causal=True)
            lse = lse.transpose(1, 2).reshape(*query.shape[:3], 1)
        else:
            output = scaled_dot_product_attention(
                queries, keys, values, is_causal=True, scale=scale, enable_gqa=True
            )
        return output.transpose(1, 2).reshape(query.shape), lse
