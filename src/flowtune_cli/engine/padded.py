"""Padded rows: each with a copy of its prefix, padded on the left, and new tokens on the right.

The model attends in its own way, with gradients if wanted. Learning uses this on every model,
prefill and decode on those whose attention cannot be replaced (see ``paths``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ..models.split import layer_devices
from .forward import hidden_states
from .prefix import Prefix
from .transfers import to_device


class PaddedCache(DynamicCache):
    """Rows of tokens, each after its prefix.

    Prefixes are on the model's first device, and what is made of them here on that of each layer.

    Args:
        model: with the adapter active that is to read the tokens.
        prefixes: each row's, with keys and values; None for a row that follows nothing.
    """

    def __init__(self, model: Any, prefixes: Sequence[Prefix | None]) -> None:
        super().__init__()
        self.model = model
        lengths = [prefix.length if prefix else 0 for prefix in prefixes]
        self.positions = torch.tensor(lengths, device=model.device)[:, None]
        width = max(lengths)
        self.mask = (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()
        self.mask = self.mask.to(model.device)
        if not width:
            return
        first = next(prefix.own for prefix in prefixes if prefix is not None)
        assert first is not None
        layers, _, heads, _, size = first.shape
        rows = first.new_zeros((layers, 2, len(prefixes), heads, width, size))
        for row, prefix in enumerate(prefixes):
            if prefix is not None:
                prefix.copy_to(rows[:, :, row, :, width - prefix.length :])
        where = layer_devices(model) or [first.device] * layers
        for layer, device in enumerate(where):
            keys, values = rows[layer].to(device)
            super().update(keys, values, layer)

    def forward(self, ids: Tensor, tree: Mapping[str, Tensor] | None = None) -> Tensor:
        """Hidden states of the rows' next tokens, shape (rows, columns, hidden size).

        Args:
            ids: shape (rows, columns), padded on the right.
            tree: the positions and mask of packed rows, see ``packing.tree_mask``.
        """
        mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
        positions = self.positions + torch.arange(ids.shape[1], device=ids.device)
        attention_mask: Tensor | None = mask
        if tree:
            positions = self.positions + tree["position_ids"]
            inside = tree["attention_mask"]
            before = torch.zeros_like(self.mask, dtype=inside.dtype)
            before = before.masked_fill(self.mask == 0, torch.finfo(inside.dtype).min)
            before = before[:, None, None].expand(-1, 1, ids.shape[1], -1)
            attention_mask = torch.cat([before, inside], dim=-1)
        elif not self.layers:
            # Causal attention never reaches the padding on the right.
            attention_mask = None
        states = hidden_states(
            self.model, ids, attention_mask=attention_mask, position_ids=positions, cache=self
        )
        self.mask = mask
        self.positions = self.positions + ids.shape[1]
        return states

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by a layer with its new tokens' keys and values; returns those of all columns."""
        if not torch.is_grad_enabled():
            return super().update(keys, values, layer)
        # Layers may run twice (see ``recomputing``), so what they find has to stay as it is.
        if layer >= len(self.layers):
            return keys, values
        past: Any = self.layers[layer]
        return torch.cat([past.keys, keys], dim=-2), torch.cat([past.values, values], dim=-2)

    def select_rows(self, rows: Sequence[int]) -> None:
        """Drop all other rows; these are in ascending order."""
        index = to_device(rows, self.mask.device)
        layers: list[Any] = list(self.layers)
        for layer in layers:
            layer.batch_select_indices(index.to(layer.keys.device))
        self.mask, self.positions = self.mask[index], self.positions[index]

    def join(self, other: PaddedCache) -> None:
        """Take over the rows of another, behind its own; without gradients."""
        self.positions = torch.cat([self.positions, other.positions])
        # A row's tokens end with the last column; before the longest there is nothing.
        columns = int(self.positions.max())
        self.mask = _on_the_right(self.mask, other.mask, columns, dim=-1)
        layers: list[tuple[Any, Any]] = list(zip(self.layers, other.layers, strict=True))
        for own, more in layers:
            own.keys = _on_the_right(own.keys, more.keys, columns, dim=-2)
            own.values = _on_the_right(own.values, more.values, columns, dim=-2)

    def keys_values(self, row: int, begin: int, end: int) -> Tensor:
        """Those of some of a row's columns, shape (layers, 2, key-value heads, columns, size)."""
        columns = slice(begin, end)
        layers: list[Any] = list(self.layers)
        found = [torch.stack([x.keys[row, :, columns], x.values[row, :, columns]]) for x in layers]
        return torch.stack([both.to(self.mask.device) for both in found])


def _on_the_right(one: Tensor, other: Tensor, columns: int, dim: int) -> Tensor:
    """Rows one after the other, their last columns below each other."""
    shape = [*one.shape]
    shape[0], shape[dim] = len(one) + len(other), columns
    whole = one.new_zeros(shape)
    for rows, part in ((slice(len(one)), one), (slice(len(one), None), other)):
        width = min(part.shape[dim], columns)
        last = part.narrow(dim, part.shape[dim] - width, width)
        whole[rows].narrow(dim, columns - width, width).copy_(last)
    return whole
