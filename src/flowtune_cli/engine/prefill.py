"""Prefill: reads sequences of unlike lengths in one forward pass, each after a prefix or none.

Sequences are packed end to end into one row, without padding, and attend by a ``CascadeCache``.
Models whose attention cannot be replaced read them padded, by a ``PaddedCache``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import like_sizes
from .batches import cheapest_batches, even_batches
from .cascade import CascadeCache, attention_is_replaced
from .forward import pad_right
from .packed_suffixes import PackedSuffixes
from .packing import Ids
from .padded import PaddedCache
from .prefix import Prefix
from .shared_prefixes import share
from .transfers import to_device

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
    groups = _by_prefix(suffixes, model.device)
    # What attends to prefixes by one call lies side by side in the row.
    order = [i for group in groups for members in group for i in members]
    row = [suffixes[i] for i in order]
    shared = [
        share(
            [prefix for members in group if (prefix := suffixes[members[0]].prefix)],
            [sum(len(suffixes[i].tokens) for i in members) for members in group],
            model.device,
        )
        for group in groups
        if suffixes[group[0][0]].prefix
    ]
    ids = [token for suffix in row for token in suffix.tokens]
    positions = [
        (suffix.prefix.length if suffix.prefix else 0) + place
        for suffix in row
        for place in range(len(suffix.tokens))
    ]
    layers = model.config.get_text_config(decoder=True).num_hidden_layers if keep else 0
    packed = PackedSuffixes([len(suffix.tokens) for suffix in row], layers, model.device)
    ids_and_positions = to_device([[ids], [positions]], model.device)
    states = CascadeCache(packed, shared).forward(model, *ids_and_positions)[0]
    places = {i: place for place, i in enumerate(order)}
    spans = [packed.spans[places[i]] for i in range(len(suffixes))]
    return Prefilled(
        [states[begin:end] for begin, end in spans], lambda i: packed.keys_values(places[i])
    )


def _by_prefix(suffixes: Sequence[Suffix], device: Any) -> list[list[list[int]]]:
    """Suffixes by their prefixes, and prefixes by the call in which they are attended to.

    Returns:
        For each call, for each of its prefixes, the suffixes' indices.
    """
    members: dict[int, list[int]] = {}
    for i, suffix in enumerate(suffixes):
        members.setdefault(id(suffix.prefix), []).append(i)
    prefixes = list(members.values())
    if not like_sizes.launches_are_dear(device):
        # One by one, so that each is read in place.
        return [[of_prefix] for of_prefix in prefixes]
    sizes = []
    for of_prefix in prefixes:
        prefix = suffixes[of_prefix[0]].prefix
        tokens = sum(len(suffixes[i].tokens) for i in of_prefix)
        sizes.append((tokens, prefix.length if prefix else 0))
    return [[prefixes[number] for number in numbers] for numbers in like_sizes.size_classes(sizes)]
