"""Prefixes: prompts that the model has read, remembered with their keys and values.

A prompt is read from where it parts from the prompts read before it: those remembered, and those
it is read together with, whose common beginnings are read first, once.

A prompt may begin with a context, which the base model reads without the node's adapter: it is read
once for all nodes, references and versions, and what is behind it goes on from there.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch

from .adapters import Adapters
from .forward import check_layers, head
from .packing import SHORTEST, Ids, common_length
from .prefix import Prefix
from .reading import Text, passes, read

Space = tuple[Any, int, Ids]
"""Whose keys and values: an adapter, its version, and the context that the base model read."""

WORTH_SHARING = 64
"""Tokens that reading a common beginning once must save, as it is a forward pass of its own."""


class Prefixes:
    """Reads prompts, and remembers those that will be needed again.

    Args:
        adapters: the model with its adapters.
        tokens_per_batch: tokens in one forward pass.
        cache_bytes: how much is remembered; the least recently used goes first.
    """

    def __init__(self, adapters: Adapters, tokens_per_batch: int, cache_bytes: int) -> None:
        self.adapters = adapters
        self.tokens_per_batch = tokens_per_batch
        self.cache_bytes = cache_bytes
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[tuple[Space, Ids], Prefix] = OrderedDict()
        self._sorted: dict[Space, list[Ids]] = {}
        self._bytes = 0
        check_layers(adapters.model.config)

    def clear(self, keep: Container[Ids] = ()) -> None:
        """Forget every remembered prefix, but for these contexts."""
        for space, ids in list(self._kept):
            if space[0] is not None or ids not in keep:
                self._drop(space, ids)

    def read(
        self,
        adapter: str | None,
        prompts: Sequence[Ids],
        *,
        keep: bool,
        keys_values: bool = True,
        contexts: Sequence[int] | None = None,
    ) -> list[Prefix]:
        """The prefixes of these prompts, in order.

        Args:
            adapter: whose forward pass.
            prompts: token ids; equal ones are read once.
            keep: remember them until the adapter changes or memory is short.
            keys_values: also keep their keys and values, not the next token's logits alone.
            contexts: how many of each prompt's tokens the base model reads, from its beginning.
        """
        if adapter is None or contexts is None:
            contexts = [0] * len(prompts)
        begun = [ids[:length] for ids, length in zip(prompts, contexts, strict=True)]
        bases: dict[Ids, Prefix] = {}
        if any(begun):
            wanted = [context for context in dict.fromkeys(begun) if context]
            bases = dict(zip(wanted, self.read(None, wanted, keep=True), strict=True))
        version = self.adapters.version(adapter)
        asked = [
            ((adapter, version, context), ids) for context, ids in zip(begun, prompts, strict=True)
        ]
        found: dict[tuple[Space, Ids], Prefix] = {}
        missing = []
        for space, ids in dict.fromkeys(asked):
            if ids == space[2]:
                found[space, ids] = bases[ids]
                continue
            prefix = self._kept.get((space, ids))
            if prefix is None or prefix.logits is None or (keys_values and prefix.own is None):
                missing.append((space, ids))
                self.misses += 1
            else:
                self._kept.move_to_end((space, ids))
                found[space, ids] = prefix
                self.hits += 1
        for space, ids, prefix in self._read(missing, bases, keys_values):
            found[space, ids] = prefix
            if keep:
                self._remember(space, ids, prefix)
        return [found[key] for key in asked]

    @torch.inference_mode()
    def _read(
        self,
        prompts: Sequence[tuple[Space, Ids]],
        bases: Mapping[Ids, Prefix],
        keys_values: bool,
    ) -> Iterator[tuple[Space, Ids, Prefix]]:
        of_space: dict[Space, list[Ids]] = {}
        for space, ids in prompts:
            of_space.setdefault(space, []).append(ids)
        # Held here, too, as memory may be too short to remember them.
        held = {
            space: {context: bases[context]} if (context := space[2]) else {} for space in of_space
        }
        waves: list[list[tuple[Space, Ids]]] = []
        for space, mine in of_space.items():
            for number, wave in enumerate(common_beginnings(mine, len(space[2]))):
                waves.extend([] for _ in range(number + 1 - len(waves)))
                waves[number] += [(space, ids) for ids in wave]
        for joint in waves:
            for space, ids, prefix in self._read_wave(joint, held, ends=False):
                held[space][ids] = prefix
                self._remember(space, ids, prefix)
        yield from self._read_wave(prompts, held, ends=True, keys_values=keys_values)

    def _read_wave(
        self,
        prompts: Sequence[tuple[Space, Ids]],
        held: Mapping[Space, Mapping[Ids, Prefix]],
        *,
        ends: bool,
        keys_values: bool = True,
    ) -> Iterator[tuple[Space, Ids, Prefix]]:
        """Read prompts of one adapter, each from where it parts from what was read before.

        Args:
            held: beginnings that were read for these prompts.
            ends: whether the token that follows is wanted.
        """
        wanted: list[tuple[Space, Ids, Prefix | None]] = []
        sorted_held = {space: sorted(mine) for space, mine in held.items()}
        # Prompts that go on from one beginning are to share it, so it is one object.
        parents: dict[tuple[Space, Ids], Prefix] = {}
        for space, ids in prompts:
            # The last token is read in any case, for what it says of the next.
            parent = self._longest(space, ids[: len(ids) - ends], held[space], sorted_held[space])
            if parent is not None and parent.length == len(ids):
                yield space, ids, parent
                continue
            if parent is not None and parent.length < SHORTEST and not space[2]:
                parent = None
            if parent is not None:
                parent = parents.setdefault((space, ids[: parent.length]), parent)
            wanted.append((space, ids, parent))
        texts = [Text(ids[parent.length if parent else 0 :], parent) for _, ids, parent in wanted]
        for batch in passes(self.adapters.model, texts, self.tokens_per_batch):
            with self.adapters.using(wanted[0][0][0]) as model:
                found = read(model, [texts[i] for i in batch], keep=keys_values)
                logits = head(model, torch.stack([x[-1] for x in found.hidden])) if ends else None
            for row, i in enumerate(batch):
                space, ids, parent = wanted[i]
                yield (
                    space,
                    ids,
                    Prefix(
                        len(ids),
                        None if logits is None else logits[row].clone(),
                        found.keys_values(row).clone() if keys_values else None,
                        parent,
                        parent.length if parent else 0,
                    ),
                )

    # What is remembered

    def _longest(
        self, space: Space, ids: Ids, held: Mapping[Ids, Prefix], sorted_held: list[Ids]
    ) -> Prefix | None:
        """The longest beginning of a prompt that was read before."""
        best, length, key = None, 0, None
        for other, common in _neighbours(self._sorted.get(space, []), ids):
            if common > length:
                key = (space, other)
                best, length = self._kept[key], common
        for other, common in _neighbours(sorted_held, ids):
            if common > length:
                best, length, key = held[other], common, None
        if key is not None:
            self._kept.move_to_end(key)
        return None if best is None else best.beginning(length)

    def _remember(self, space: Space, ids: Ids, prefix: Prefix) -> None:
        self._drop(space, ids)
        self._kept[space, ids] = prefix
        self._bytes += prefix.bytes
        if prefix.own is not None:
            insort(self._sorted.setdefault(space, []), ids)
        while self._bytes > self.cache_bytes and self._kept:
            self._drop(*next(iter(self._kept)))

    def _drop(self, space: Space, ids: Ids) -> None:
        prefix = self._kept.pop((space, ids), None)
        if prefix is None:
            return
        self._bytes -= prefix.bytes
        if prefix.own is not None:
            kept = self._sorted[space]
            del kept[bisect_left(kept, ids)]
            if not kept:
                del self._sorted[space]


def common_beginnings(prompts: Sequence[Ids], read: int = 0) -> list[list[Ids]]:
    """The beginnings that several prompts share, as far as it pays to read each once.

    Args:
        read: tokens that all begin with and that were read before.

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

    split(sorted(prompts), read, 0)
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
