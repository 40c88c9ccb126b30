"""The cache of decoding: rows that grow a token at a time, each after a prefix.

Rows of one prefix share its keys and values by a ``CascadeCache``. Models whose attention cannot be
replaced decode with a ``PaddedCache``, a copy of the prefix for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

from torch import Tensor

from .attention import attend_with_lse
from .cascade import CascadeCache, attention_is_replaced
from .padded import PaddedCache
from .prefix import Prefix
from .shared_prefixes import SharedPrefixes
from .transfers import to_device


class CascadeDecodeCache:
    """Rows that share the keys and values of their prefixes; see ``make_decode_cache``."""

    def __init__(
        self, model: Any, prefixes: Sequence[Prefix], owners: Sequence[int], max_new_tokens: int
    ) -> None:
        self.model = model
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
            first.new_empty((layers, 2, len(owners), heads, max_new_tokens, size))
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
        states = self.cache.forward(self.model, ids, self.positions)
        self.suffixes.length += 1
        self.positions = self.positions + 1
        return states

    def select_rows(self, rows: Sequence[int]) -> None:
        """Drop all other rows; these are in ascending order."""
        index = to_device(rows, self.positions.device)
        self.suffixes.select(index)
        self.positions = self.positions[index]
        owners = [self.owners[row] for row in rows]
        left = sorted(set(owners))
        if len(left) < len(self.lengths):
            number = {owner: place for place, owner in enumerate(left)}
            owners = [number[owner] for owner in owners]
            self.lengths = [self.lengths[owner] for owner in left]
            self.prefixes = self.prefixes[:, :, to_device(left, self.prefixes.device)]
        self._share(owners)


class _GrowingSuffixes:
    """Rows' own tokens, written into memory that was set aside for them.

    Args:
        keys_values: that memory: shape (layers, 2, rows, key-value heads, columns, head size).

    Attributes:
        length: tokens that each row has, but for the one that is being read.
    """

    def __init__(self, keys_values: Tensor) -> None:
        self.keys_values = keys_values
        self.length = 0

    def select(self, rows: Tensor) -> None:
        """Keep these rows alone."""
        all_rows = self.keys_values
        self.keys_values = all_rows.new_empty((*all_rows.shape[:2], len(rows), *all_rows.shape[3:]))
        used = all_rows[:, :, rows, :, : self.length]
        self.keys_values[..., : self.length, :] = used

    def attend(
        self, layer: int, query: Tensor, keys: Tensor, values: Tensor, scale: float, with_lse: bool
    ) -> tuple[Tensor, Tensor]:
        """See ``cascade.Suffixes``; a row has one new token."""
        memory = self.keys_values[layer]
        memory[0, :, :, self.length] = keys
        memory[1, :, :, self.length] = values
        keys, values = memory[..., : self.length + 1, :].unbind(0)
        # The heads of a group become more queries to it.
        return attend_with_lse(query, keys, values, scale)


DecodeCache = Union[CascadeDecodeCache, PaddedCache]


def make_decode_cache(
    model: Any, prefixes: Sequence[Prefix], owners: Sequence[int], max_new_tokens: int
) -> DecodeCache:
    """Begin rows after prefixes.

    Args:
        model: with the adapter active that read the prefixes.
        prefixes: each with keys and values.
        owners: for each row, the index of its prefix; every prefix has a row.
        max_new_tokens: the most tokens that a row will have.
    """
    if attention_is_replaced(model):
        return CascadeDecodeCache(model, prefixes, owners, max_new_tokens)
    return PaddedCache(model, [prefixes[owner] for owner in owners])
