"""Prefixes: prompts that the model has read, remembered with their keys and values.

A prompt is read from where it parts from the prompts read before it: those remembered, and those
it is read together with, whose common beginnings are read first, once. Rows of like lengths are
read together, padded on the right, where causal attention never looks.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import DynamicCache

from .adapters import Adapters
from .batches import batches
from .continuation import go_on
from .forward import check_layers, head, hidden_states, pad_right
from .packing import SHORTEST, Ids, common_length
from .prefix import Prefix

Key = tuple[Any, int, Ids]

WORTH_SHARING = 64
"""Tokens that reading a common beginning once must save, as it is a forward pass of its own."""


class Prefixes:
    """Reads prompts, and remembers those that will be needed again.

    Args:
        adapters: the model with its adapters.
        tokens_per_batch: tokens in one forward pass, padding included.
        cache_bytes: how much is remembered; the least recently used goes first.
    """

    def __init__(self, adapters: Adapters, tokens_per_batch: int, cache_bytes: int) -> None:
        self.adapters = adapters
        self.tokens_per_batch = tokens_per_batch
        self.cache_bytes = cache_bytes
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[Key, Prefix] = OrderedDict()
        self._sorted: dict[tuple[Any, int], list[Ids]] = {}
        self._bytes = 0
        check_layers(adapters.model.config)

    def clear(self) -> None:
        """Forget every remembered prefix."""
        self._kept.clear()
        self._sorted.clear()
        self._bytes = 0

    def read(
        self,
        adapter: str | None,
        prompts: Sequence[Ids],
        *,
        keep: bool,
        keys_values: bool = True,
    ) -> list[Prefix]:
        """The prefixes of these prompts, in order.

        Args:
            adapter: whose forward pass.
            prompts: token ids; equal ones are read once.
            keep: remember them until the adapter changes or memory is short.
            keys_values: also keep their keys and values, not the next token's logits alone.
        """
        version = self.adapters.version(adapter)
        found: dict[Ids, Prefix] = {}
        missing = []
        for ids in dict.fromkeys(prompts):
            prefix = self._kept.get((adapter, version, ids))
            if prefix is None or prefix.logits is None or (keys_values and prefix.own is None):
                missing.append(ids)
            else:
                self._kept.move_to_end((adapter, version, ids))
                found[ids] = prefix
        self.hits += len(found)
        self.misses += len(missing)
        for ids, prefix in self._read(adapter, missing, keys_values):
            found[ids] = prefix
            if keep:
                self._remember((adapter, version, ids), prefix)
        return [found[ids] for ids in prompts]

    @torch.inference_mode()
    def _read(
        self, adapter: str | None, prompts: Sequence[Ids], keys_values: bool
    ) -> Iterator[tuple[Ids, Prefix]]:
        version = self.adapters.version(adapter)
        # Held here, too, as memory may be too short to remember them.
        held: dict[Ids, Prefix] = {}
        for wave in common_beginnings(prompts):
            for ids, prefix in self._read_wave(adapter, wave, held, ends=False):
                held[ids] = prefix
                self._remember((adapter, version, ids), prefix)
        yield from self._read_wave(adapter, prompts, held, ends=True, keys_values=keys_values)

    def _read_wave(
        self,
        adapter: str | None,
        prompts: Sequence[Ids],
        held: dict[Ids, Prefix],
        *,
        ends: bool,
        keys_values: bool = True,
    ) -> Iterator[tuple[Ids, Prefix]]:
        """Read prompts, each from where it parts from what was read before.

        Args:
            held: beginnings that were read for these prompts.
            ends: whether the token that follows is wanted.
        """
        fresh: list[Ids] = []
        behind: list[tuple[Ids, Prefix]] = []
        sorted_held = sorted(held)
        # Prompts that go on from one beginning are to share it, so it is one object.
        parents: dict[Ids, Prefix] = {}
        for ids in prompts:
            # The last token is read in any case, for what it says of the next.
            parent = self._longest(adapter, ids[: len(ids) - ends], held, sorted_held)
            if parent is not None and parent.length == len(ids):
                yield ids, parent
            elif parent is None or parent.length < SHORTEST:
                fresh.append(ids)
            else:
                behind.append((ids, parents.setdefault(ids[: parent.length], parent)))
        for batch in batches([len(ids) for ids in fresh], self.tokens_per_batch):
            yield from self._read_fresh(adapter, [fresh[i] for i in batch], ends, keys_values)
        rest = [len(ids) - parent.length for ids, parent in behind]
        on = [(id(parent), parent.length) for _, parent in behind]
        for batch in batches(rest, self.tokens_per_batch, on):
            yield from self._read_behind(adapter, [behind[i] for i in batch], ends, keys_values)

    def _read_fresh(
        self, adapter: str | None, batch: list[Ids], ends: bool, keys_values: bool
    ) -> Iterator[tuple[Ids, Prefix]]:
        with self.adapters.using(adapter) as model:
            ids = pad_right(batch, model.device)
            cache = DynamicCache() if keys_values else None
            hidden = hidden_states(model, ids, use_cache=keys_values, past_key_values=cache)
            logits = None
            if ends:
                last = torch.tensor([len(row) - 1 for row in batch], device=ids.device)
                logits = head(model, hidden[torch.arange(len(batch), device=ids.device), last])
        stacked = None
        if cache is not None:
            stacked = torch.stack([torch.stack([x.keys, x.values]) for x in cache.layers])
        for row, tokens in enumerate(batch):
            own = None if stacked is None else stacked[:, :, row, :, : len(tokens)].clone()
            yield tokens, Prefix(len(tokens), None if logits is None else logits[row].clone(), own)

    def _read_behind(
        self,
        adapter: str | None,
        rows: list[tuple[Ids, Prefix]],
        ends: bool,
        keys_values: bool,
    ) -> Iterator[tuple[Ids, Prefix]]:
        parents = list({id(parent): parent for _, parent in rows}.values())
        number = {id(parent): place for place, parent in enumerate(parents)}
        rest = [ids[parent.length :] for ids, parent in rows]
        with self.adapters.using(adapter) as model:
            ids = pad_right(rest, model.device)
            going = go_on(model, parents, [number[id(parent)] for _, parent in rows], ids.shape[1])
            hidden = going.forward(ids)
            logits = None
            if ends:
                last = torch.tensor([len(row) - 1 for row in rest], device=ids.device)
                logits = head(model, hidden[torch.arange(len(rest), device=ids.device), last])
        for row, (tokens, parent) in enumerate(rows):
            own = going.keys_values(row, len(rest[row])).clone() if keys_values else None
            last_logits = None if logits is None else logits[row].clone()
            yield tokens, Prefix(len(tokens), last_logits, own, parent, parent.length)

    # What is remembered

    def _longest(
        self, adapter: str | None, ids: Ids, held: dict[Ids, Prefix], sorted_held: list[Ids]
    ) -> Prefix | None:
        """The longest beginning of a prompt that was read before."""
        space = (adapter, self.adapters.version(adapter))
        best, length, key = None, 0, None
        for other, common in _neighbours(self._sorted.get(space, []), ids):
            if common > length:
                key = (*space, other)
                best, length = self._kept[key], common
        for other, common in _neighbours(sorted_held, ids):
            if common > length:
                best, length, key = held[other], common, None
        if key is not None:
            self._kept.move_to_end(key)
        return None if best is None else best.beginning(length)

    def _remember(self, key: Key, prefix: Prefix) -> None:
        self._drop(key)
        self._kept[key] = prefix
        self._bytes += prefix.bytes
        if prefix.own is not None:
            insort(self._sorted.setdefault(key[:2], []), key[2])
        while self._bytes > self.cache_bytes and self._kept:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: Key) -> None:
        prefix = self._kept.pop(key, None)
        if prefix is None:
            return
        self._bytes -= prefix.bytes
        if prefix.own is not None:
            kept = self._sorted[key[:2]]
            del kept[bisect_left(kept, key[2])]


def common_beginnings(prompts: Sequence[Ids]) -> list[list[Ids]]:
    """The beginnings that several prompts share, as far as it pays to read each once.

    Returns:
        Waves: those of one wave go on from those of the waves before it.
    """
    waves: list[list[Ids]] = []

    def split(group: list[Ids], covered: int, wave: int) -> None:
        common = common_beginning(group)
        more = len(common) - covered
        if more >= SHORTEST and more * (len(group) - 1) >= WORTH_SHARING:
            waves.extend([] for _ in range(wave + 1 - len(waves)))
            waves[wave].append(common)
            covered, wave = len(common), wave + 1
        longer = [ids for ids in group if len(ids) > len(common) + 1]
        for _, alike in groupby(longer, key=lambda ids: ids[len(common)]):
            split(list(alike), covered, wave)

    split(sorted(prompts), 0, 0)
    return waves


def common_beginning(prompts: Sequence[Ids]) -> Ids:
    """The tokens that all prompts begin with; each has at least one more."""
    if not prompts:
        return ()
    most = min(len(prompt) for prompt in prompts) - 1
    return prompts[0][: min(most, common_length(min(prompts), max(prompts)))]


def _neighbours(ordered: list[Ids], ids: Ids) -> Iterator[tuple[Ids, int]]:
    """Where a prompt would stand among sorted ones: the longest common beginning is next to it."""
    place = bisect_left(ordered, ids)
    for other in ordered[max(place - 1, 0) : place + 1]:
        yield other, common_length(other, ids)
