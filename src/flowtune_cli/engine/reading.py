"""Reading texts of unlike lengths in one forward pass, each behind a prefix or nothing.

Texts are laid one behind the other in a single row, so that no pass computes padding. Each looks at
its prefix, where its keys and values lie, once for all texts of one pass behind it, and at its own
tokens apart.

Models whose attention cannot be replaced read texts side by side, padded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import Cache, DynamicCache

from .attention import can_look_apart, joined, look
from .batches import batches, filled
from .forward import hidden_states, pad_right
from .packing import Ids
from .prefix import Prefix, side_by_side

_CALL = 48
"""What a call of attention costs beside its tokens, in tokens."""


_LAYING = 0.25
"""What laying out a prefix's token takes, in tokens: its keys and values are copied."""


class Text(NamedTuple):
    """What is to be read.

    Args:
        ids: its tokens, at least one.
        behind: what it follows; None if nothing.
    """

    ids: Ids
    behind: Prefix | None = None


class Read(NamedTuple):
    """What one forward pass gave.

    Args:
        hidden: each text's last hidden states, shape (tokens, hidden size).
        keys_values: given a text's place, those of its tokens: shape (layers, 2, key-value heads,
            tokens, head size).
    """

    hidden: Sequence[Tensor]
    keys_values: Callable[[int], Tensor]


def passes(model: Any, texts: Sequence[Text], budget: int) -> list[list[int]]:
    """Split texts into forward passes.

    Args:
        budget: the most tokens in one pass; a text that is longer goes alone.

    Returns:
        The texts' indices, pass by pass; those of a pass are either all behind prefixes, texts
        behind one prefix beside each other, or none is.
    """
    split: list[list[int]] = []
    for behind in (False, True):
        chosen = [i for i, text in enumerate(texts) if (text.behind is not None) is behind]
        if can_look_apart(model):
            first: dict[int, int] = {}
            for i in chosen:
                first.setdefault(id(texts[i].behind), i)
            chosen.sort(key=lambda i: first[id(texts[i].behind)])
            places = filled(_costs([texts[i] for i in chosen]), budget)
        else:
            parents = [(id(text.behind), text.behind.length) for text in texts if text.behind]
            widths = [len(texts[i].ids) for i in chosen]
            places = batches(widths, budget, parents if behind else None)
        split += [[chosen[place] for place in batch] for batch in places]
    return split


@torch.inference_mode()
def read(model: Any, texts: Sequence[Text], *, keep: bool) -> Read:
    """Read texts by one forward pass; see ``passes``.

    Args:
        model: with the adapter active that is to read.
        keep: their keys and values are wanted.
    """
    if can_look_apart(model):
        return _Packed(model, texts, keep).read()
    return _read_side_by_side(model, texts)


def _costs(texts: Sequence[Text]) -> list[float]:
    """What each text takes of a pass, in tokens: with its first text, a prefix that is laid out."""
    laid: set[int] = set()
    costs = []
    for ids, behind in texts:
        costs.append(float(len(ids)))
        if behind is not None and behind.parent is not None and id(behind) not in laid:
            laid.add(id(behind))
            costs[-1] += _LAYING * behind.length
    return costs


class _Packed(Cache):
    """Texts one behind the other in a row.

    Args:
        model: one whose attention looks apart.
        texts: all behind prefixes, or none.
        keep: hold all layers' keys and values.
    """

    def __init__(self, model: Any, texts: Sequence[Text], keep: bool) -> None:
        super().__init__(layers=[])
        self.model = model
        self.device = model.device
        self.ids = [token for text in texts for token in text.ids]
        self.ends = list(accumulate(len(text.ids) for text in texts))
        self.begins = [0, *self.ends[:-1]]
        self.positions = [
            (text.behind.length if text.behind else 0) + place
            for text in texts
            for place in range(len(text.ids))
        ]
        self.prefixes = _prefixes(texts, self.begins, self.ends)
        self.groups = [
            _Group(self, members) for members in _alike([len(text.ids) for text in texts])
        ]
        # Texts of one length stand one behind the other as they are.
        self.in_order = len(self.groups) == 1 and self.groups[0].real is None
        self.own: Tensor | None = None
        self.keep = keep
        self.new: tuple[Tensor, Tensor] | None = None

    def read(self) -> Read:
        hidden = hidden_states(
            self.model,
            torch.tensor([self.ids], device=self.device),
            # Four dimensions: the model makes no mask of its own.
            attention_mask=torch.ones((1, 1, 1, 1), dtype=torch.bool, device=self.device),
            position_ids=torch.tensor([self.positions], device=self.device),
            cache=self,
            looking=self,
        )[0]
        spans = list(zip(self.begins, self.ends, strict=True))
        return Read([hidden[begin:end] for begin, end in spans], self._keys_values)

    def _keys_values(self, text: int) -> Tensor:
        assert self.own is not None
        return self.own[:, :, :, self.begins[text] : self.ends[text]]

    @property
    def looked_at(self) -> int:
        """Columns that the tokens look at, prefixes and what comes after them included."""
        own = sum((end - begin) ** 2 for begin, end in zip(self.begins, self.ends, strict=True))
        return own + sum((end - begin) * behind.length for begin, end, behind in self.prefixes)

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        return 0

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by a layer with the tokens' keys and values, before it attends."""
        if self.keep:
            if self.own is None:
                layers = self.model.config.get_text_config(decoder=True).num_hidden_layers
                _, heads, columns, size = keys.shape
                self.own = keys.new_empty((layers, 2, heads, columns, size))
            self.own[layer, 0] = keys[0]
            self.own[layer, 1] = values[0]
        self.new = keys[0], values[0]
        return keys, values

    def attend(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """See ``Looking``; there is one row."""
        assert self.new is not None
        found, lse = self._look_at_own(query[0], *self.new, scale)
        if self.prefixes:
            found = joined((found, lse), self._look_at_prefixes(layer, query[0], scale))
        return found[None]

    def _look_at_own(
        self, query: Tensor, keys: Tensor, values: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Shapes (columns, heads, head size) and (columns, heads, 1); see ``_Group.look``."""
        # A column's heads beside each other, as they come out of the layer's projections.
        query, keys, values = (x.transpose(0, 1) for x in (query, keys, values))
        if self.in_order:
            return self.groups[0].look(query, keys, values, scale, alone=not self.prefixes)
        found = query.new_empty(query.shape)
        lse = query.new_empty((*query.shape[:2], 1), dtype=torch.float32)
        for group in self.groups:
            mine, mine_keys, mine_values = (
                x.index_select(0, group.columns) for x in (query, keys, values)
            )
            here, here_lse = group.look(
                mine, mine_keys, mine_values, scale, alone=not self.prefixes
            )
            if group.real is not None:
                here, here_lse = here[group.real], here_lse[group.real]
            found.index_copy_(0, group.targets, here)
            lse.index_copy_(0, group.targets, here_lse)
        return found, lse

    def _look_at_prefixes(self, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Shapes (columns, heads, head size) and (columns, heads, 1)."""
        heads, _, size = query.shape
        found, lse = [], []
        for begin, end, behind in self.prefixes:
            keys, values = behind.keys_values(layer).unbind(0)
            # The heads of a group become more queries to it.
            mine = query[:, begin:end].reshape(1, keys.shape[0], -1, size)
            here, here_lse = look(mine, keys[None], values[None], scale)
            found.append(here.reshape(heads, end - begin, size))
            lse.append(here_lse.reshape(heads, end - begin, 1))
        return torch.cat(found, dim=1).transpose(0, 1), torch.cat(lse, dim=1).transpose(0, 1)


class _Group:
    """Texts of like lengths, which look at their own tokens together, padded to the longest.

    Args:
        columns: where the tokens of one text after the other stand; a text that is shorter than the
            longest repeats its last token, at which nothing before it looks.
        real: which of these are no repetition; None if all.
        targets: where those stand.
    """

    def __init__(self, packed: _Packed, members: Sequence[int]) -> None:
        self.texts = len(members)
        width = max(packed.ends[i] - packed.begins[i] for i in members)
        columns: list[int] = []
        real: list[int] = []
        for i in members:
            begin, end = packed.begins[i], packed.ends[i]
            real += range(len(columns), len(columns) + end - begin)
            columns += [*range(begin, end), *[end - 1] * (width - end + begin)]
        self.columns = torch.tensor(columns, device=packed.device)
        self.real = None
        self.targets = self.columns
        if len(real) < len(columns):
            self.real = torch.tensor(real, device=packed.device)
            self.targets = self.columns[self.real]

    def look(
        self, query: Tensor, keys: Tensor, values: Tensor, scale: float, *, alone: bool
    ) -> tuple[Tensor, Tensor]:
        """Of shapes (columns, heads, head size) all.

        Args:
            alone: nothing is to be joined, so the log-sums are left at 0.
        """
        mine, mine_keys, mine_values = (
            x.reshape(self.texts, -1, *x.shape[1:]).transpose(1, 2) for x in (query, keys, values)
        )
        lse = query.new_zeros((*query.shape[:2], 1), dtype=torch.float32)
        if alone:
            found = scaled_dot_product_attention(
                mine, mine_keys, mine_values, is_causal=True, scale=scale, enable_gqa=True
            )
        else:
            found, sums = look(mine, mine_keys, mine_values, scale, causal=True)
            lse = sums.transpose(1, 2).reshape(lse.shape)
        return found.transpose(1, 2).reshape(query.shape), lse


def _prefixes(
    texts: Sequence[Text], begins: Sequence[int], ends: Sequence[int]
) -> list[tuple[int, int, Prefix]]:
    """The columns behind each prefix."""
    found = []
    for _, group in groupby(range(len(texts)), key=lambda i: id(texts[i].behind)):
        members = list(group)
        behind = texts[members[0]].behind
        if behind is not None:
            found.append((begins[members[0]], ends[members[-1]], behind))
    return found


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """Texts of like lengths, each group in the order given: what a group pads is worth its call."""
    groups: list[list[int]] = []
    longest = padded = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        padded += longest - lengths[i]
        if not groups or padded > _CALL:
            groups.append([])
            longest, padded = lengths[i], 0
        groups[-1].append(i)
    return [sorted(group) for group in groups]


def _read_side_by_side(model: Any, texts: Sequence[Text]) -> Read:
    ids = pad_right([text.ids for text in texts], model.device)
    prefixes = list({id(text.behind): text.behind for text in texts if text.behind}.values())
    if prefixes:
        number = {id(prefix): place for place, prefix in enumerate(prefixes)}
        cache, seen = side_by_side(prefixes, [number[id(text.behind)] for text in texts])
    else:
        cache, seen = DynamicCache(), ids.new_ones((len(texts), 0))
    begin = seen.shape[1]
    lengths = torch.tensor([text.behind.length if text.behind else 0 for text in texts])
    columns = torch.arange(ids.shape[1], device=ids.device)
    hidden = hidden_states(
        model,
        ids,
        # What stands behind a text's end is never looked at by what is before it.
        attention_mask=torch.cat([seen, torch.ones_like(ids)], dim=1),
        position_ids=lengths.to(ids.device)[:, None] + columns,
        cache=cache,
    )

    def keys_values(text: int) -> Tensor:
        new = slice(begin, begin + len(texts[text].ids))
        return torch.stack(
            [torch.stack([x.keys[text, :, new], x.values[text, :, new]]) for x in cache.layers]
        )

    return Read([hidden[i, : len(text.ids)] for i, text in enumerate(texts)], keys_values)
