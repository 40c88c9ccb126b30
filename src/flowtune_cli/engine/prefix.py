"""A prompt that the model has read: the keys and values of its tokens, to be gone on from.

Prompts that begin alike share what was read of their beginning: a prefix may hold but its last
tokens, behind some of the tokens of another prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True)
class Prefix:
    """A prompt that was read.

    Args:
        length: tokens.
        logits: of the token that follows; shape (vocabulary,), the model's dtype. None for a
            beginning that was read for others' sake.
        own: keys and values of the tokens behind ``shared``; shape (layers, 2, key-value heads,
            length - shared, head size). None if not kept.
        parent: the prefix whose first ``shared`` tokens are this one's, too.
    """

    length: int
    logits: Tensor | None
    own: Tensor | None
    parent: Prefix | None = None
    shared: int = 0

    @property
    def bytes(self) -> int:
        """What it holds beside its parent."""
        return sum(t.nbytes for t in (self.logits, self.own) if t is not None)

    def keys_values(self, layer: int) -> Tensor:
        """Of all its tokens: shape (2, key-value heads, length, head size)."""
        assert self.own is not None
        own = self.own[layer]
        if self.parent is None:
            return own
        whole = own.new_empty((*own.shape[:2], self.length, own.shape[-1]))
        self.lay(whole, layer)
        return whole

    def lay(self, into: Tensor, layer: int | slice = slice(None)) -> None:
        """Write the keys and values of all its tokens, of one layer or all.

        Args:
            into: shape (..., length, head size), what comes before as in ``own[layer]``.
        """
        assert self.own is not None
        if self.parent is not None:
            self.parent.beginning(self.shared).lay(into[..., : self.shared, :], layer)
        into[..., self.shared :, :] = self.own[layer]

    def beginning(self, length: int) -> Prefix:
        """Its first tokens; nothing is copied."""
        if length == self.length:
            return self
        if self.parent is not None and length <= self.shared:
            return self.parent.beginning(length)
        assert self.own is not None
        own = self.own[..., : length - self.shared, :]
        return Prefix(length, None, own, self.parent, self.shared)


def side_by_side(prefixes: Sequence[Prefix], rows: Sequence[int]) -> tuple[DynamicCache, Tensor]:
    """Lay prefixes in a batch, padded on the left, with the same prefix on as many rows as wanted.

    Args:
        prefixes: each with keys and values.
        rows: for each row of the batch, the index of its prefix.

    Returns:
        The cache; and the mask of columns that a row may look at, shape (rows, longest).
    """
    longest = max(prefix.length for prefix in prefixes)
    first = prefixes[0].own
    assert first is not None
    layers, _, heads, _, size = first.shape
    laid = first.new_zeros((layers, 2, len(prefixes), heads, longest, size))
    mask = torch.zeros((len(prefixes), longest), dtype=torch.long, device=first.device)
    for position, prefix in enumerate(prefixes):
        prefix.lay(laid[:, :, position, :, longest - prefix.length :])
        mask[position, longest - prefix.length :] = 1
    index = torch.tensor(list(rows), device=first.device)
    laid, mask = laid.index_select(2, index), mask.index_select(0, index)
    cache = DynamicCache()
    for layer in range(layers):
        cache.update(laid[layer, 0], laid[layer, 1], layer)
    return cache, mask
