"""The prefix cache: prompts that the model has read, remembered with their keys and values.

A prompt is read from where it parts from the prompts read before it: those remembered, and those
it is read together with, whose common prefixes are read first, once.

A prompt may begin with a frozen prefix, which the base model reads without the node's adapter: it
is read once for all nodes, references and versions, and the rest of the prompt follows it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.out_of_memory import in_halves
from .adapters import Adapters
from .cascade import replace_attention, restore_attention
from .forward import compute_logits
from .limits import Limits
from .packing import MIN_SHARED_TOKENS, Ids, common_length
from .paths import Paths
from .prefill import Prefilled, Suffix, prefill, prefill_batches
from .prefix import Prefix

MIN_SAVED_TOKENS = 64
"""Tokens that reading a common prefix once must save, as it is a forward pass of its own."""


class Namespace(NamedTuple):
    """Prompts whose keys and values others may share.

    Args:
        adapter: that reads them; None for the base model.
        version: the adapter's.
        frozen_prefix: their first tokens, if the base model reads those.
    """

    adapter: str | None
    version: int
    frozen_prefix: Ids


class Key(NamedTuple):
    """What is remembered of a prompt goes by its namespace and all of its tokens."""

    namespace: Namespace
    ids: Ids


class PrefixCache:
    """Reads prompts, and remembers those that will be needed again.

    Args:
        adapters: the model with its adapters.
        limits: tokens in one forward pass; and how much is remembered: the least recently used
            goes first.
        paths: how the model is run; if None, what its configuration does not rule out.
    """

    def __init__(self, adapters: Adapters, limits: Limits, paths: Paths | None = None) -> None:
        self.adapters = adapters
        self.limits = limits
        self._entries: OrderedDict[Key, Prefix] = OrderedDict()
        self._sorted: dict[Namespace, list[Ids]] = {}
        self._bytes = 0
        self.paths = Paths.by_config(adapters.model) if paths is None else paths
        if self.paths.playing == "cascade":
            replace_attention(adapters.model)
        else:
            restore_attention(adapters.model)

    def clear(self, keep: Container[Ids] = ()) -> None:
        """Forget every prompt, but for these frozen prefixes."""
        for key in list(self._entries):
            if key.namespace.adapter is not None or key.ids not in keep:
                self._evict(key)

    def remembers(self, frozen_prefix: Ids) -> bool:
        """Whether a frozen prefix need not be read again."""
        entry = self._entries.get(self._frozen_key(frozen_prefix))
        return entry is not None and entry.logits is not None

    def free(self) -> bool:
        """Forget every prompt; whether there was any."""
        held = bool(self._entries)
        self.clear()
        return held

    def prefill(
        self,
        adapter: str | None,
        prompts: Sequence[Ids],
        *,
        keep: bool,
        keys_values: bool = True,
        frozen_lengths: Sequence[int] | None = None,
    ) -> list[Prefix]:
        """The prefixes of these prompts, in order.

        Args:
            adapter: whose forward pass.
            prompts: token ids; equal ones are read once.
            keep: remember them until the adapter changes or memory is short.
            keys_values: also keep their keys and values, not the next token's logits alone.
            frozen_lengths: how many of each prompt's tokens the base model reads, from its
                beginning.
        """
        if adapter is None or frozen_lengths is None:
            frozen_lengths = [0] * len(prompts)
        version = self.adapters.version(adapter)
        keys = [
            Key(Namespace(adapter, version, ids[:length]), ids)
            for ids, length in zip(prompts, frozen_lengths, strict=True)
        ]
        frozen: dict[Ids, Prefix] = {}
        if any(frozen_lengths):
            frozen = self.prefill_frozen(key.namespace.frozen_prefix for key in keys)
        found: dict[Key, Prefix] = {}
        missing = []
        for key in dict.fromkeys(keys):
            if key.ids == key.namespace.frozen_prefix:
                found[key] = frozen[key.ids]
                continue
            entry = self._entries.get(key)
            if entry is None or entry.logits is None or (keys_values and entry.own is None):
                missing.append(key)
            else:
                self._entries.move_to_end(key)
                found[key] = entry
        for key, prefix in self._prefill(missing, frozen, keys_values):
            found[key] = prefix
            if keep:
                self._remember(key, prefix)
        return [found[key] for key in keys]

    def prefill_frozen(self, frozen_prefixes: Iterable[Ids]) -> dict[Ids, Prefix]:
        """Read frozen prefixes, and remember them. Empty ones are left out.

        In float32 each is read by itself, so that the bits of its keys and values do not depend on
        what else is read, and what is learned of it not on which process learns it. Other dtypes
        promise no equal bits, and save the passes.
        """
        wanted = [ids for ids in dict.fromkeys(frozen_prefixes) if ids]
        if not self._reads_frozen_alone:
            return dict(zip(wanted, self.prefill(None, wanted, keep=True), strict=True))
        found = {}
        for ids in wanted:
            key = self._frozen_key(ids)
            entry = self._entries.get(key)
            if entry is None:
                ((_, entry),) = self._prefill_level([key], {key.namespace: {}}, logits=True)
                self._remember(key, entry)
            else:
                self._entries.move_to_end(key)
            found[ids] = entry
        return found

    @property
    def _reads_frozen_alone(self) -> bool:
        return bool(self.adapters.model.dtype == torch.float32)

    def _frozen_key(self, ids: Ids) -> Key:
        """By what a frozen prefix is remembered: what is read alone shares nothing."""
        return Key(Namespace(None, 0, ids if self._reads_frozen_alone else ()), ids)

    @torch.inference_mode()
    def _prefill(
        self, keys: Sequence[Key], frozen: Mapping[Ids, Prefix], keys_values: bool
    ) -> Iterator[tuple[Key, Prefix]]:
        """Read prompts of one adapter, their common prefixes first."""
        by_namespace: dict[Namespace, list[Ids]] = {}
        for namespace, ids in keys:
            by_namespace.setdefault(namespace, []).append(ids)
        # In here, too, as memory may be too short to remember them.
        beginnings: dict[Namespace, dict[Ids, Prefix]] = {
            namespace: {ids: frozen[ids]} if (ids := namespace.frozen_prefix) else {}
            for namespace in by_namespace
        }
        levels: list[list[Key]] = []
        for namespace, prompts in by_namespace.items():
            tree = common_prefixes(prompts, len(namespace.frozen_prefix))
            levels.extend([] for _ in range(len(tree) - len(levels)))
            for level, beginning in zip(levels, tree, strict=False):
                level += [Key(namespace, ids) for ids in beginning]
        for level in levels:
            for key, prefix in self._prefill_level(level, beginnings, logits=False):
                beginnings[key.namespace][key.ids] = prefix
                self._remember(key, prefix)
        yield from self._prefill_level(keys, beginnings, logits=True, keys_values=keys_values)

    @torch.inference_mode()
    def _prefill_level(
        self,
        keys: Sequence[Key],
        beginnings: Mapping[Namespace, Mapping[Ids, Prefix]],
        *,
        logits: bool,
        keys_values: bool = True,
    ) -> Iterator[tuple[Key, Prefix]]:
        """Read prompts of one adapter, each from where it parts from what was read before.

        Args:
            beginnings: what was read for these prompts.
            logits: whether those of the token that follows are wanted.
        """
        wanted: list[tuple[Key, Prefix | None]] = []
        in_order = {namespace: sorted(ids) for namespace, ids in beginnings.items()}
        # Prompts that follow one prefix are to share it, so it is one object.
        parents: dict[Key, Prefix] = {}
        for key in keys:
            namespace, ids = key
            # The last token is read in any case, for what it says of the next.
            most = ids[:-1] if logits else ids
            parent = self._longest(Key(namespace, most), beginnings[namespace], in_order[namespace])
            if parent is not None and parent.length == len(ids):
                yield key, parent
                continue
            if parent and (parent.length >= MIN_SHARED_TOKENS or namespace.frozen_prefix):
                parent = parents.setdefault(Key(namespace, ids[: parent.length]), parent)
            else:
                parent = None
            wanted.append((key, parent))
        suffixes = [Suffix(k.ids[p.length if p else 0 :], p) for k, p in wanted]
        model = self.adapters.model

        def read_batch(batch: Sequence[int]) -> tuple[Prefilled, Tensor | None]:
            with self.adapters.using(wanted[0][0].namespace.adapter):
                read = prefill(model, [suffixes[i] for i in batch], keep=keys_values)
                last = torch.stack([states[-1] for states in read.hidden_states])
                return read, compute_logits(model, last) if logits else None

        for batch, (read, next_logits) in (
            found
            for whole in prefill_batches(model, suffixes, self.limits.tokens_per_batch)
            for found in in_halves(read_batch, whole, "reading a prompt", self.free)
        ):
            for row, i in enumerate(batch):
                key, parent = wanted[i]
                prefix = Prefix(
                    len(key.ids),
                    None if next_logits is None else next_logits[row].clone(),
                    read.keys_values(row).clone() if keys_values else None,
                    parent,
                    parent.length if parent else 0,
                )
                yield key, prefix

    def _longest(
        self, key: Key, beginnings: Mapping[Ids, Prefix], in_order: list[Ids]
    ) -> Prefix | None:
        """The longest beginning of a prompt that was read before."""
        best: Prefix | None = None
        entry: Key | None = None
        length = 0
        for other, common in _neighbours(self._sorted.get(key.namespace, []), key.ids):
            if common > length:
                entry = Key(key.namespace, other)
                best, length = self._entries[entry], common
        for other, common in _neighbours(in_order, key.ids):
            if common > length:
                best, length, entry = beginnings[other], common, None
        if entry is not None:
            self._entries.move_to_end(entry)
        return None if best is None else best.truncated(length)

    def _remember(self, key: Key, prefix: Prefix) -> None:
        self._evict(key)
        self._entries[key] = prefix
        self._bytes += prefix.bytes
        if prefix.own is not None:
            insort(self._sorted.setdefault(key.namespace, []), key.ids)
        while self._bytes > self.limits.prefix_cache_bytes and self._entries:
            self._evict(next(iter(self._entries)))

    def _evict(self, key: Key) -> None:
        prefix = self._entries.pop(key, None)
        if prefix is None:
            return
        self._bytes -= prefix.bytes
        if prefix.own is not None:
            in_order = self._sorted[key.namespace]
            del in_order[bisect_left(in_order, key.ids)]
            if not in_order:
                del self._sorted[key.namespace]


def common_prefixes(prompts: Sequence[Ids], covered: int = 0) -> list[list[Ids]]:
    """The prefixes that several prompts share, as far as it pays to read each once.

    Args:
        covered: tokens that all begin with and that were read before.

    Returns:
        Levels of a tree: the prefixes of a level continue those of the levels before it.
    """
    levels: list[list[Ids]] = []

    def split(group: list[Ids], covered: int, level: int) -> None:
        common = common_prefix(group)
        more = len(common) - covered
        if more >= MIN_SHARED_TOKENS and more * (len(group) - 1) >= MIN_SAVED_TOKENS:
            levels.extend([] for _ in range(level + 1 - len(levels)))
            levels[level].append(common)
            covered, level = len(common), level + 1
        longer = [ids for ids in group if len(ids) > len(common) + 1]
        for _, branch in groupby(longer, key=lambda ids: ids[len(common)]):
            split(list(branch), covered, level)

    split(sorted(prompts), covered, 0)
    return levels


def common_prefix(prompts: Sequence[Ids]) -> Ids:
    """The tokens that all prompts begin with; each has at least one more."""
    if not prompts:
        return ()
    most = min(len(prompt) for prompt in prompts) - 1
    return prompts[0][: min(most, common_length(min(prompts), max(prompts)))]


def _neighbours(in_order: list[Ids], ids: Ids) -> Iterator[tuple[Ids, int]]:
    """The two sorted prompts between which one would be, with the length that each has in common
    with it: the longest common prefix is with one of them."""
    place = bisect_left(in_order, ids)
    for other in in_order[max(place - 1, 0) : place + 1]:
        yield other, common_length(other, ids)
