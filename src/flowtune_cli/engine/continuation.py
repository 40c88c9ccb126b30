"""Going on from prompts a token at a time: many rows, each behind a prompt that was read before.

Rows of one prompt share its keys and values: attention looks at a prompt once for all rows behind
it, looks at each row's own tokens apart, and joins the two. Keys and values of new tokens are
written into memory that was set aside for them.

Models whose attention cannot be replaced go on from prompts laid side by side, a copy for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import Cache

from .attention import can_look_apart, joined, look
from .forward import hidden_states
from .prefix import Prefix, side_by_side


class Continuation(Protocol):
    """Rows that go on from prefixes."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Read each row's next token, shape (rows,); their hidden states, (rows, size)."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, given in ascending order."""


def go_on(model: Any, prefixes: Sequence[Prefix], rows: Sequence[int], room: int) -> Continuation:
    """Begin rows behind prefixes.

    Args:
        model: with the adapter active that read the prefixes.
        prefixes: each with keys and values.
        rows: for each row, the index of its prefix; every prefix has a row.
        room: the most tokens that a row will have.
    """
    if can_look_apart(model):
        return _Shared(model, prefixes, rows, room)
    return _SideBySide(model, prefixes, rows)


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

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = hidden_states(
            self.model,
            tokens[:, None],
            # Four dimensions: the model makes no mask of its own.
            attention_mask=tokens.new_ones((1, 1, 1, 1), dtype=torch.bool),
            position_ids=self.positions[:, None],
            cache=self,
            looking=self,
        )
        self.filled += 1
        self.positions = self.positions + 1
        return hidden[:, 0]

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

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by a layer with its new tokens' keys and values, before it attends."""
        self.own[layer, 0, :, :, self.filled] = keys[:, :, 0]
        self.own[layer, 1, :, :, self.filled] = values[:, :, 0]
        return keys, values

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        return self.longest + self.filled

    def attend(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """See ``Looking``; there is one column."""
        rows, heads, _, size = query.shape
        # The heads of a group become more queries to it.
        mine = query.reshape(rows, self.own.shape[3], -1, size)
        keys, values = self.own[layer, :, :, :, : self.filled + 1].unbind(0)
        own = look(mine, keys, values, scale)
        found = joined(own, self._look_at_prompts(layer, mine, scale))
        return found.reshape(rows, 1, heads, size)

    def _look_at_prompts(self, layer: int, mine: Tensor, scale: float) -> tuple[Tensor, Tensor]:
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
        found, lse = look(queries, keys, values, scale, hidden=self.hidden)

        def by_row(laid: Tensor) -> Tensor:
            back = laid.view(number, groups, most, per_group, -1).transpose(1, 2)
            back = back.reshape(number * most, groups, per_group, -1)
            return back if self.places is None else back[self.places]

        return by_row(found), by_row(lse)


class _SideBySide:
    """Rows behind prompts that are laid side by side, a copy for each row."""

    def __init__(self, model: Any, prefixes: Sequence[Prefix], rows: Sequence[int]) -> None:
        self.model = model
        self.cache, self.mask = side_by_side(prefixes, rows)
        self.positions = torch.tensor(
            [prefixes[row].length for row in rows], device=self.mask.device
        )

    def forward(self, tokens: Tensor) -> Tensor:
        ids = tokens[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
        hidden = hidden_states(
            self.model,
            ids,
            attention_mask=self.mask,
            position_ids=self.positions[:, None],
            cache=self.cache,
        )
        self.positions = self.positions + 1
        return hidden[:, 0]

    def keep(self, rows: Sequence[int]) -> None:
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask, self.positions = self.mask[index], self.positions[index]
