"""Prefixes side by side in memory, and the attention of the tokens that follow them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .attention import attend_with_lse, padding_mask
from .prefix import Prefix
from .transfers import to_device


class SharedPrefixes:
    """Prefixes side by side, padded on the right, and the tokens that attend to each.

    Args:
        keys_values: given a layer, those of the prefixes: shape (2, prefixes, key-value heads,
            width, head size).
        width: of the longest prefix or more.
        lengths: of the prefixes.
        owners: for each token, the number of its prefix; each prefix has a token.
        dtype, device: of the tokens.
    """

    def __init__(
        self,
        keys_values: Callable[[int], Tensor],
        width: int,
        lengths: Sequence[int],
        owners: Sequence[int],
        dtype: torch.dtype,
        device: Any,
    ) -> None:
        self.keys_values = keys_values
        self.lengths = lengths
        self.owners = owners
        self.mask: Tensor | None = None
        if min(lengths) < width:
            self.mask = padding_mask(torch.tensor(lengths), width, dtype, device)
        # Every prefix has as many slots for tokens as the one with the most tokens.
        counts = [0] * len(lengths)
        places = []
        for owner in owners:
            places.append((owner, counts[owner]))
            counts[owner] += 1
        self.slots_per_prefix = max(counts)
        slots = [owner * self.slots_per_prefix + place for owner, place in places]
        count = len(lengths) * self.slots_per_prefix
        # None: the tokens fill the slots in order.
        self.slots: Tensor | None = None
        if slots != list(range(count)):
            self.slots = to_device(slots, device)
            # In the slots that are left there is the first token again, for nothing.
            tokens = [0] * count
            for token, slot in enumerate(slots):
                tokens[slot] = token
            self.tokens = to_device(tokens, device)

    def attend(self, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Attention of each token to its prefix, and the log-sum-exp.

        Args:
            query: shape (tokens, key-value heads, queries per head, head size).

        Returns:
            The shape of the query, and the same with 1 in place of the head size.
        """
        keys, values = self.keys_values(layer).unbind(0)
        slots = query if self.slots is None else query.index_select(0, self.tokens)
        # The tokens of a prefix and the heads of a group become more queries to its columns.
        slots = slots.unflatten(0, (len(self.lengths), -1)).transpose(1, 2)
        queries = slots.flatten(2, 3)
        output, lse = attend_with_lse(queries, keys, values, scale, mask=self.mask)
        return self._by_token(output), self._by_token(lse)

    def _by_token(self, output: Tensor) -> Tensor:
        slots = output.unflatten(2, (self.slots_per_prefix, -1)).transpose(1, 2)
        if self.slots is not None:
            return slots.flatten(0, 1).index_select(0, self.slots)
        return slots.flatten(0, 1)


def share(prefixes: Sequence[Prefix], tokens: Sequence[int], device: Any) -> SharedPrefixes:
    """Let tokens attend to prefixes by one call.

    Args:
        prefixes: with keys and values. One is read in place, several are copied side by side,
            layer by layer.
        tokens: for each prefix, how many follow it: one at least. Those of the first come first.
    """
    first = prefixes[0].own
    assert first is not None
    lengths = [prefix.length for prefix in prefixes]
    owners = [owner for owner, count in enumerate(tokens) for _ in range(count)]
    keys_values = prefixes[0].keys_values
    if len(prefixes) > 1:
        keys_values = _SideBySide(prefixes, device)
    return SharedPrefixes(keys_values, max(lengths), lengths, owners, first.dtype, device)


class _SideBySide:
    """Gathers the keys and values of prefixes, a layer at a time, by as many operations for many
    prefixes as for two.

    What several of them begin with is copied to each.
    """

    def __init__(self, prefixes: Sequence[Prefix], device: Any) -> None:
        used: dict[int, tuple[Tensor, int]] = {}
        for prefix in prefixes:
            for own, length in prefix.parts():
                _, most = used.get(id(own), (own, 0))
                used[id(own)] = own, max(most, length)
        self._parts = [own[..., :length, :] for own, length in used.values()]
        ends = accumulate((length for _, length in used.values()), initial=0)
        begins = dict(zip(used, ends, strict=False))
        width = max(prefix.length for prefix in prefixes)
        columns: list[int] = []
        for prefix in prefixes:
            for own, length in prefix.parts():
                columns += range(begins[id(own)], begins[id(own)] + length)
            # Padding, to which nothing attends.
            columns += columns[-1:] * (width - prefix.length)
        self._shape = (len(prefixes), width)
        self._columns = to_device(columns, device)

    def __call__(self, layer: int) -> Tensor:
        """See ``SharedPrefixes``."""
        together = torch.cat([part[layer] for part in self._parts], dim=2)
        return together.index_select(2, self._columns).unflatten(2, self._shape).transpose(1, 2)
