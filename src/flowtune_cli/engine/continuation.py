"""Going on from prefixes: many rows of new tokens, each behind a prompt that was read before.

Rows of one prompt share its keys and values: attention looks at a prompt once for all rows behind
it, looks at each row's own tokens apart, and joins the two. With ``o`` what softmax attention gives
over a part of the columns and ``lse`` the log of the sum of that part's exponentiated scores,
attention over both parts is ``w * o_prompt + (1 - w) * o_own``, ``w = sigmoid(lse_prompt -
lse_own)``. Keys and values of new tokens are written into memory that was set aside for them.

Models whose attention cannot be replaced, or is more than a softmax over all columns, go on from
prompts laid side by side, a copy for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, Cache, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .forward import hidden_states, windowed
from .prefix import Prefix

_ATTENTION = "flowtune"
_FLASH: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
"""Torch's attention that never holds all scores, and tells the log of their sum."""


class Continuation(Protocol):
    """Rows that go on from prefixes."""

    def forward(self, ids: Tensor) -> Tensor:
        """Read new tokens, shape (rows, columns); their hidden states, (rows, columns, size)."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, given in ascending order."""

    def keys_values(self, row: int, length: int) -> Tensor:
        """Of a row's first new tokens: (layers, 2, key-value heads, length, head size)."""


def go_on(model: Any, prefixes: Sequence[Prefix], rows: Sequence[int], room: int) -> Continuation:
    """Begin rows behind prefixes.

    Args:
        model: with the adapter active that read the prefixes.
        prefixes: each with keys and values.
        rows: for each row, the index of its prefix; every prefix has a row.
        room: the most tokens that a row will have.
    """
    if shares_prompts(model):
        return _Shared(model, prefixes, rows, room)
    return _SideBySide(model, prefixes, rows, room)


def shares_prompts(model: Any) -> bool:
    """Whether rows can share a prompt's keys and values; makes the model ready for it."""
    config = model.config.get_text_config(decoder=True)
    if config._attn_implementation == _ATTENTION:
        return True
    plain = not (
        windowed(model.config)
        or getattr(config, "attn_logit_softcapping", None)
        or getattr(config, "attention_sink", None)
        or config._attn_implementation != "sdpa"
        or not getattr(model, "_supports_attention_backend", False)
    )
    if plain:
        AttentionInterface.register(_ATTENTION, _attention)
        AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
        model.set_attn_implementation(_ATTENTION)
    return plain


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    rows: _Shared | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """What the model's layers call: torch's attention, or that of rows which share prompts."""
    if rows is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return rows.attend(module.layer_idx, query * scale), None


class _Shared(Cache):
    """Rows that share the keys and values of their prompts.

    ``prompts`` has shape (layers, 2, prefixes, key-value heads, longest, head size) and ``own``
    the rows' new tokens, (layers, 2, rows, key-value heads, room, head size).
    """

    def __init__(
        self, model: Any, prefixes: Sequence[Prefix], rows: Sequence[int], room: int
    ) -> None:
        super().__init__(layers=[])
        self.model = model
        first = prefixes[0].own
        assert first is not None
        layers, _, heads, _, size = first.shape
        self.longest = max(prefix.length for prefix in prefixes)
        self.prompts = first.new_zeros((layers, 2, len(prefixes), heads, self.longest, size))
        hidden = torch.zeros((len(prefixes), 1, 1, self.longest), device=first.device)
        for number, prefix in enumerate(prefixes):
            prefix.lay(self.prompts[:, :, number, :, : prefix.length])
            hidden[number, ..., prefix.length :] = -torch.inf
        # Prompts of one length hide nothing.
        self.hidden = hidden if bool(hidden.any()) else None
        self.own = first.new_empty((layers, 2, len(rows), heads, room, size))
        self.filled = 0
        self.positions = torch.tensor([prefixes[row].length for row in rows], device=first.device)
        self._lay(list(rows))

    def _lay(self, rows: list[int]) -> None:
        """Give each row its place beside the others of its prompt."""
        self.rows = rows
        beside = [0] * self.prompts.shape[2]
        taken = []
        for prompt in rows:
            taken.append((prompt, beside[prompt]))
            beside[prompt] += 1
        self.most = max(beside)
        places = [prompt * self.most + place for prompt, place in taken]
        # None: the rows are in their places as they come, and every place is taken.
        self.places = None
        if places != list(range(len(beside) * self.most)):
            self.places = torch.tensor(places, device=self.prompts.device)

    def forward(self, ids: Tensor) -> Tensor:
        columns = ids.shape[1]
        positions = self.positions[:, None] + torch.arange(columns, device=ids.device)
        self.later = None
        if columns > 1:
            later = torch.full((columns, self.filled + columns), -torch.inf, device=ids.device)
            self.later = later.triu(self.filled + 1)
        hidden = hidden_states(
            self.model,
            ids,
            # Four dimensions: the model makes no mask of its own.
            attention_mask=ids.new_ones((1, 1, 1, 1), dtype=torch.bool),
            position_ids=positions,
            past_key_values=self,
            use_cache=True,
            rows=self,
        )
        self.filled += columns
        self.positions = self.positions + columns
        return hidden

    def keep(self, rows: Sequence[int]) -> None:
        index = torch.tensor(rows, device=self.own.device)
        kept = self.own.new_empty((*self.own.shape[:2], len(rows), *self.own.shape[3:]))
        kept[..., : self.filled, :] = self.own[:, :, index, :, : self.filled]
        self.own = kept
        self.positions = self.positions[index]
        left = [self.rows[row] for row in rows]
        staying = sorted(set(left))
        if len(staying) < self.prompts.shape[2]:
            number = {prompt: place for place, prompt in enumerate(staying)}
            which = torch.tensor(staying, device=self.own.device)
            self.prompts = self.prompts[:, :, which]
            self.hidden = None if self.hidden is None else self.hidden[which]
            left = [number[prompt] for prompt in left]
        self._lay(left)

    def keys_values(self, row: int, length: int) -> Tensor:
        return self.own[:, :, row, :, :length]

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by a layer with its new tokens' keys and values, before it attends."""
        begin, end = self.filled, self.filled + keys.shape[2]
        self.own[layer, 0, :, :, begin:end] = keys
        self.own[layer, 1, :, :, begin:end] = values
        return keys, values

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        return self.longest + self.filled

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """Attention of new tokens.

        Args:
            query: scaled; shape (rows, heads, columns, head size).

        Returns:
            Shape (rows, columns, heads, head size).
        """
        rows, heads, columns, size = query.shape
        groups = self.own.shape[3]
        per_group = heads // groups * columns
        mine = query.reshape(rows, groups, per_group, size)
        prompt, prompt_lse = self._look_at_prompts(layer, mine)

        keys, values = self.own[layer, :, :, :, : self.filled + columns].unbind(0)
        later = self.later
        if later is not None:
            later = later.repeat(heads // groups, 1)
        own, own_lse = _look(mine, keys, values, later)
        weight = torch.sigmoid(prompt_lse - own_lse).to(query.dtype)
        joined = own + weight * (prompt - own)
        return joined.view(rows, heads, columns, size).transpose(1, 2)

    def _look_at_prompts(self, layer: int, mine: Tensor) -> tuple[Tensor, Tensor]:
        _, groups, per_group, size = mine.shape
        number, most = self.prompts.shape[2], self.most
        laid = mine
        if self.places is not None:
            laid = mine.new_zeros((number * most, groups, per_group, size))
            laid[self.places] = mine
        # The rows of a prompt become more queries to it.
        laid = laid.view(number, most, groups, per_group, size).transpose(1, 2)
        queries = laid.reshape(number, groups, most * per_group, size)
        keys, values = self.prompts[layer].unbind(0)
        found, lse = _look(queries, keys, values, self.hidden)

        def by_row(laid: Tensor) -> Tensor:
            back = laid.view(number, groups, most, per_group, -1).transpose(1, 2)
            back = back.reshape(number * most, groups, per_group, -1)
            return back if self.places is None else back[self.places]

        return by_row(found), by_row(lse)


def _look(
    queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention over some columns, and the log of the sum of its exponentiated scores.

    Args:
        queries: scaled; shape (..., queries, size).
        keys, values: shape (..., columns, size).
        hidden: minus infinity where a query may not look, else 0; broadcast to the scores.

    Returns:
        Shapes (..., queries, size), and (..., queries, 1) in float32.
    """
    if _FLASH is not None and queries.device.type == "cpu":
        found, lse = _FLASH(queries, keys, values, 0.0, False, attn_mask=hidden, scale=1.0)
        return found, lse[..., None]
    scores = torch.matmul(queries, keys.transpose(-1, -2)).float()
    if hidden is not None:
        scores += hidden
    lse = torch.logsumexp(scores, dim=-1, keepdim=True)
    weights = torch.exp(scores - lse).to(values.dtype)
    return torch.matmul(weights, values), lse


class _SideBySide:
    """Rows behind prompts that are laid side by side, a copy for each row."""

    def __init__(
        self, model: Any, prefixes: Sequence[Prefix], rows: Sequence[int], room: int
    ) -> None:
        self.model = model
        self.cache, self.mask = side_by_side(prefixes, rows)
        self.longest = self.mask.shape[1]
        self.positions = torch.tensor(
            [prefixes[row].length for row in rows], device=self.mask.device
        )

    def forward(self, ids: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
        hidden = hidden_states(
            self.model,
            ids,
            attention_mask=self.mask,
            position_ids=self.positions[:, None] + torch.arange(ids.shape[1], device=ids.device),
            past_key_values=self.cache,
            use_cache=True,
        )
        self.positions = self.positions + ids.shape[1]
        return hidden

    def keep(self, rows: Sequence[int]) -> None:
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask, self.positions = self.mask[index], self.positions[index]

    def keys_values(self, row: int, length: int) -> Tensor:
        new = slice(self.longest, self.longest + length)
        layers = [
            torch.stack([x.keys[row, :, new], x.values[row, :, new]]) for x in self.cache.layers
        ]
        return torch.stack(layers)


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
