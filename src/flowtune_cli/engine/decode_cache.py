"""The cache of decoding: rows that grow a token at a time, each after a prefix.

Rows of one prefix share its keys and values by a ``CascadeCache``. Models whose attention cannot be
replaced decode with a ``PaddedCache``, a copy of the prefix for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

import torch
from torch import Tensor

from .attention import attend_with_lse, padding_mask
from .cascade import CascadeCache, attention_is_replaced
from .padded import PaddedCache
from .prefix import Prefix
from .shared_prefixes import SharedPrefixes
from .transfers import to_device


class CascadeDecodeCache:
    """Rows that share the keys and values of their prefixes; see ``make_decode_cache``."""

    def __init__(
        self,
        model: Any,
        prefixes: Sequence[Prefix],
        owners: Sequence[int],
        max_new_tokens: Sequence[int],
    ) -> None:
        self.model = model
        self.max_new_tokens = list(max_new_tokens)
        first = prefixes[0].own
        assert first is not None
        layers, _, heads, _, size = first.shape
        self.lengths = [prefix.length for prefix in prefixes]
        # Shape (layers, 2, prefixes, key-value heads, longest, head size).
        self.prefixes = first.new_zeros((layers, 2, len(prefixes), heads, max(self.lengths), size))
        for number, prefix in enumerate(prefixes):
            prefix.copy_to(self.prefixes[:, :, number, :, : prefix.length])
        self.positions = to_device([[self.lengths[owner]] for owner in owners], first.device)
        self.suffixes = _GrowingSuffixes(
            first.new_empty((layers, 2, len(owners), heads, max(max_new_tokens), size))
        )
        self._share(list(owners))

    def _share(self, owners: list[int]) -> None:
        self.owners = owners
        width = self.prefixes.shape[4]
        shared = SharedPrefixes(
            self.prefixes.__getitem__,
            width,
            self.lengths,
            owners,
            self.prefixes.dtype,
            self.prefixes.device,
        )
        self.cache = CascadeCache(self.suffixes, [shared])

    def forward(self, ids: Tensor) -> Tensor:
        """Read each row's next token, shape (rows, 1); hidden states, (rows, 1, hidden size)."""
        self.suffixes.begin()
        states = self.cache.forward(self.model, ids, self.positions)
        self.suffixes.end()
        self.positions = self.positions + 1
        return states

    def select_rows(self, rows: Sequence[int]) -> None:
        """Drop all other rows; these are in ascending order."""
        index = to_device(rows, self.positions.device)
        self.suffixes.select(index, rows)
        self.positions = self.positions[index]
        self.max_new_tokens = [self.max_new_tokens[row] for row in rows]
        owners = [self.owners[row] for row in rows]
        left = sorted(set(owners))
        if len(left) < len(self.lengths):
            number = {owner: place for place, owner in enumerate(left)}
            owners = [number[owner] for owner in owners]
            self.lengths = [self.lengths[owner] for owner in left]
            self.prefixes = self.prefixes[:, :, to_device(left, self.prefixes.device)]
        self._share(owners)

    def join(self, other: CascadeDecodeCache) -> None:
        """Take over the rows of another, behind its own."""
        self.max_new_tokens += other.max_new_tokens
        self.suffixes.join(other.suffixes, max(self.max_new_tokens))
        self.positions = torch.cat([self.positions, other.positions])
        owners: list[int] = []
        lengths: list[int] = []
        found: list[Tensor] = []
        for cache in (self, other):
            # A prompt all of whose rows ended with their first token has none here.
            left = sorted(set(cache.owners))
            number = {owner: place for place, owner in enumerate(left, len(lengths))}
            owners += [number[owner] for owner in cache.owners]
            lengths += [cache.lengths[owner] for owner in left]
            found.append(cache.prefixes[:, :, to_device(left, cache.prefixes.device)])
        self.lengths = lengths
        self.prefixes = _end_to_end(found, max(lengths))
        self._share(owners)


class _GrowingSuffixes:
    """Rows' own tokens, written into memory that was set aside for them.

    Args:
        keys_values: that memory: shape (layers, 2, rows, key-value heads, columns, head size).

    Attributes:
        lengths: tokens that each row has, but for the one that is being read.
    """

    def __init__(self, keys_values: Tensor) -> None:
        self.keys_values = keys_values
        self.lengths = [0] * keys_values.shape[2]
        # Of the step that is made.
        self._columns = 0
        self._place: Any = None
        self._mask: Tensor | None = None

    @property
    def length(self) -> int:
        """Tokens of the rows that have most."""
        return max(self.lengths)

    @property
    def _unlike(self) -> bool:
        """Whether rows have joined others."""
        return min(self.lengths) < self.length

    def select(self, rows: Tensor, kept: Sequence[int]) -> None:
        """Keep these rows alone, given on the device and on the host."""
        all_rows = self.keys_values
        # What nothing was written to is masked where rows are unlike, and must not be NaN.
        allocate = all_rows.new_zeros if self._unlike else all_rows.new_empty
        self.keys_values = allocate((*all_rows.shape[:2], len(kept), *all_rows.shape[3:]))
        used = all_rows[:, :, rows, :, : self.length]
        self.keys_values[..., : self.length, :] = used
        self.lengths = [self.lengths[row] for row in kept]

    def join(self, other: _GrowingSuffixes, columns: int) -> None:
        """Take over the rows of another, behind its own, with room for so many tokens each."""
        used = [each.keys_values[..., : each.length, :] for each in (self, other)]
        self.keys_values = _end_to_end(used, columns)
        self.lengths += other.lengths

    def begin(self) -> None:
        """Make ready for a token more in each row."""
        self._columns = self.length + 1
        self._place, self._mask = (slice(None), self.length), None
        if self._unlike:
            memory = self.keys_values
            lengths = torch.tensor(self.lengths)
            places = to_device(torch.stack([torch.arange(len(lengths)), lengths]), memory.device)
            self._place = places.unbind(0)
            self._mask = padding_mask(lengths + 1, self._columns, memory.dtype, memory.device)

    def end(self) -> None:
        """The token has been read."""
        self.lengths = [length + 1 for length in self.lengths]

    def attend(
        self, layer: int, query: Tensor, keys: Tensor, values: Tensor, scale: float, with_lse: bool
    ) -> tuple[Tensor, Tensor]:
        """See ``cascade.Suffixes``; a row has one new token."""
        memory = self.keys_values[layer]
        rows, columns = self._place
        memory[0, rows, :, columns] = keys
        memory[1, rows, :, columns] = values
        keys, values = memory[..., : self._columns, :].unbind(0)
        # The heads of a group become more queries to it.
        return attend_with_lse(query, keys, values, scale, mask=self._mask)


def _end_to_end(parts: Sequence[Tensor], columns: int) -> Tensor:
    """Rows one after the other, with so many columns, of zeros where a part has fewer.

    Args:
        parts: shape (layers, 2, rows, key-value heads, columns, head size).
    """
    layers, both, _, heads, _, size = parts[0].shape
    rows = sum(part.shape[2] for part in parts)
    whole = parts[0].new_zeros((layers, both, rows, heads, columns, size))
    begin = 0
    for part in parts:
        whole[:, :, begin : begin + part.shape[2], :, : part.shape[4]] = part[..., :columns, :]
        begin += part.shape[2]
    return whole


DecodeCache = Union[CascadeDecodeCache, PaddedCache]


def make_decode_cache(
    model: Any,
    prefixes: Sequence[Prefix],
    owners: Sequence[int],
    max_new_tokens: Sequence[int],
) -> DecodeCache:
    """Begin rows after prefixes.

    Args:
        model: with the adapter active that read the prefixes.
        prefixes: each with keys and values.
        owners: for each row, the index of its prefix.
        max_new_tokens: the most tokens that each row will have.
    """
    if attention_is_replaced(model):
        return CascadeDecodeCache(model, prefixes, owners, max_new_tokens)
    return PaddedCache(model, [prefixes[owner] for owner in owners])
