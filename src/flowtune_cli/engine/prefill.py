"""Prefill: reads sequences of unlike lengths in one forward pass, each after a prefix or none.

Sequences are packed end to end into one row, without padding, and attend by a ``CascadeCache``.
Models whose attention cannot be replaced read them padded, by a ``PaddedCache``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .attention import attend_with_lse
from .batches import cheapest_batches, even_batches
from .cascade import CascadeCache, SharedPrefixes, attention_is_replaced
from .forward import pad_right
from .packing import Ids
from .padded import PaddedCache
from .prefix import Prefix

_CALL_COST = 48
"""What a call of attention costs beside its tokens, in tokens."""

_COPY_COST = 0.25
"""What copying the keys and values of a prefix's token costs, in tokens."""


class Suffix(NamedTuple):
    """Tokens to read.

    Args:
        tokens: at least one.
        prefix: what they follow, with keys and values; None if nothing.
    """

    tokens: Ids
    prefix: Prefix | None = None


class Prefilled(NamedTuple):
    """What one forward pass gave.

    Args:
        hidden_states: each suffix's last ones, shape (tokens, hidden size).
        keys_values: given a suffix's index, those of its tokens: shape (layers, 2, key-value heads,
            tokens, head size).
    """

    hidden_states: Sequence[Tensor]
    keys_values: Callable[[int], Tensor]


def prefill_batches(model: Any, suffixes: Sequence[Suffix], budget: int) -> list[list[int]]:
    """Split suffixes into forward passes.

    Args:
        budget: the most tokens in one pass; a suffix that is longer goes alone.

    Returns:
        The suffixes' indices, pass by pass; those of a pass either all follow prefixes, suffixes of
        one prefix side by side, or none does.
    """
    packs = attention_is_replaced(model)
    split: list[list[int]] = []
    for follows in (False, True):
        chosen = [i for i, suffix in enumerate(suffixes) if (suffix.prefix is not None) is follows]
        if packs:
            first: dict[int, int] = {}
            for i in chosen:
                first.setdefault(id(suffixes[i].prefix), i)
            chosen.sort(key=lambda i: first[id(suffixes[i].prefix)])
        costs = []
        copied: set[int] = set()
        for tokens, prefix in (suffixes[i] for i in chosen):
            costs.append(float(len(tokens)))
            # Padded rows have a copy each; else a prefix that lies in parts is copied once.
            if prefix and not (packs and (prefix.parent is None or id(prefix) in copied)):
                copied.add(id(prefix))
                costs[-1] += _COPY_COST * prefix.length
        batches = even_batches(costs, budget) if packs else cheapest_batches(costs, budget)
        split += [[chosen[place] for place in batch] for batch in batches]
    return split


@torch.inference_mode()
def prefill(model: Any, suffixes: Sequence[Suffix], *, keep: bool) -> Prefilled:
    """Read suffixes by one forward pass; see ``prefill_batches``.

    Args:
        model: with the adapter active that is to read.
        keep: their keys and values are wanted.
    """
    if attention_is_replaced(model):
        return _prefill_packed(model, suffixes, keep)
    cache = PaddedCache(model, [suffix.prefix for suffix in suffixes])
    begin = cache.mask.shape[1]
    states = cache.forward(pad_right([suffix.tokens for suffix in suffixes], model.device))
    return Prefilled(
        [states[row, : len(suffix.tokens)] for row, suffix in enumerate(suffixes)],
        lambda row: cache.keys_values(row, begin, begin + len(suffixes[row].tokens)),
    )


def _prefill_packed(model: Any, suffixes: Sequence[Suffix], keep: bool) -> Prefilled:
    ids = [token for suffix in suffixes for token in suffix.tokens]
    positions = [
        (suffix.prefix.length if suffix.prefix else 0) + place
        for suffix in suffixes
        for place in range(len(suffix.tokens))
    ]
    layers = model.config.get_text_config(decoder=True).num_hidden_layers if keep else 0
    packed = PackedSuffixes([len(suffix.tokens) for suffix in suffixes], layers, model.device)
    cache = CascadeCache(packed, _shared_prefixes(suffixes, model.device))
    ids_and_positions = torch.tensor([[ids], [positions]], device=model.device)
    states = cache.forward(model, *ids_and_positions)[0]
    return Prefilled([states[begin:end] for begin, end in packed.spans], packed.keys_values)


def _shared_prefixes(suffixes: Sequence[Suffix], device: Any) -> list[SharedPrefixes]:
    """The prefixes, one by one, so that each is read in place."""
    shared = []
    for _, group in groupby(suffixes, key=lambda suffix: id(suffix.prefix)):
        members = list(group)
        prefix = members[0].prefix
        if prefix is not None:
            tokens = sum(len(suffix.tokens) for suffix in members)
            length = prefix.length
            owners = [0] * tokens
            shared.append(SharedPrefixes(prefix.keys_values, length, [length], owners, device))
    return shared


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
            _Group([self.spans[i] for i in members], device) for members in like_lengths(lengths)
        ]
        # Suffixes of one length lie end to end as they are.
        self._in_order = len(self._groups) == 1 and self._groups[0].real is None
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
        if self._in_order:
            return self._groups[0].attend(query, keys, values, scale, with_lse)
        output = torch.empty_like(query)
        lse = query.new_empty((*query.shape[:3], 1), dtype=torch.float32) if with_lse else None
        for group in self._groups:
            part, part_keys, part_values = (
                x.index_select(0, group.columns) for x in (query, keys, values)
            )
            found, found_lse = group.attend(part, part_keys, part_values, scale, with_lse)
            output.index_copy_(0, group.targets, found if group.real is None else found[group.real])
            if lse is not None and found_lse is not None:
                found_lse = found_lse if group.real is None else found_lse[group.real]
                lse.index_copy_(0, group.targets, found_lse)
        return output, lse


class _Group:
    """Suffixes of like lengths, which attend by one call, padded to the longest.

    Args:
        spans: where they begin and end in the row.

    Attributes:
        columns: of all tokens; a suffix that is shorter than the longest repeats its last token, to
            which nothing before it attends.
        real: which of these are no repetition; None if all.
        targets: the columns of those.
    """

    def __init__(self, spans: Sequence[tuple[int, int]], device: Any) -> None:
        self.suffixes = len(spans)
        width = max(end - begin for begin, end in spans)
        columns: list[int] = []
        real: list[int] = []
        for begin, end in spans:
            real += range(len(columns), len(columns) + end - begin)
            columns += [*range(begin, end), *[end - 1] * (width - end + begin)]
        self.columns = torch.tensor(columns, device=device)
        self.real: Tensor | None = None
        self.targets = self.columns
        if len(real) < len(columns):
            self.real = torch.tensor(real, device=device)
            self.targets = self.columns[self.real]

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


def like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Groups of like lengths, in which padding costs less than a call of attention for another.

    Returns:
        Indices, those of a group in ascending order.
    """
    groups: list[list[int]] = []
    longest = padding = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        padding += longest - lengths[i]
        if not groups or padding > _CALL_COST:
            groups.append([])
            longest, padding = lengths[i], 0
        groups[-1].append(i)
    return [sorted(group) for group in groups]
