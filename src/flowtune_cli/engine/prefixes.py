"""Prefixes: prompts that the model has read, with their keys and values, ready to be gone on from.

Prompts are read in batches, sorted by length and padded on the right, where causal attention never
looks. What was read is kept without padding, so that any set of prefixes can be laid side by side
again for decoding or for scoring what follows them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ..flow.errors import UsageError
from .adapters import Adapters

SHARED_TOKENS = 16
"""A shorter common beginning is not worth a forward pass of its own."""


@dataclass(frozen=True)
class Prefix:
    """A prompt that was read.

    Args:
        length: tokens.
        logits: of the token that follows; shape (vocabulary,), the model's dtype.
        keys_values: shape (layers, 2, key-value heads, length, head size); None if not kept.
    """

    length: int
    logits: Tensor
    keys_values: Tensor | None

    @property
    def bytes(self) -> int:
        kept = self.logits.nbytes
        return kept + (self.keys_values.nbytes if self.keys_values is not None else 0)


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
        self._kept: OrderedDict[tuple[Any, ...], Prefix] = OrderedDict()
        self._bytes = 0
        check_layers(adapters.model.config)

    def clear(self) -> None:
        """Forget every remembered prefix."""
        self._kept.clear()
        self._bytes = 0

    def read(
        self,
        adapter: str | None,
        prompts: Sequence[tuple[int, ...]],
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
        found: dict[tuple[int, ...], Prefix] = {}
        missing = []
        for ids in dict.fromkeys(prompts):
            prefix = self._kept.get((adapter, version, ids))
            if prefix is not None and (prefix.keys_values is not None or not keys_values):
                self._kept.move_to_end((adapter, version, ids))
                found[ids] = prefix
            else:
                missing.append(ids)
        self.hits += len(found)
        self.misses += len(missing)
        for ids, prefix in self._compute(adapter, missing, keys_values):
            found[ids] = prefix
            if keep:
                self._remember((adapter, version, ids), prefix)
        return [found[ids] for ids in prompts]

    def _remember(self, key: tuple[Any, ...], prefix: Prefix) -> None:
        old = self._kept.pop(key, None)
        if old is not None:
            self._bytes -= old.bytes
        self._kept[key] = prefix
        self._bytes += prefix.bytes
        while self._bytes > self.cache_bytes and self._kept:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.bytes

    @torch.inference_mode()
    def _compute(
        self, adapter: str | None, prompts: list[tuple[int, ...]], keys_values: bool
    ) -> list[tuple[tuple[int, ...], Prefix]]:
        """Read prompts in batches; the beginning that all of them share is read once."""
        shared = common_beginning(prompts)
        if len(prompts) < 2 or len(shared) < SHARED_TOKENS:
            return list(self._read_batches(adapter, prompts, keys_values, None))
        (beginning,) = self.read(adapter, [shared], keep=True)
        return list(self._read_batches(adapter, prompts, keys_values, beginning))

    def _read_batches(
        self,
        adapter: str | None,
        prompts: list[tuple[int, ...]],
        keys_values: bool,
        beginning: Prefix | None,
    ) -> Iterator[tuple[tuple[int, ...], Prefix]]:
        skipped = beginning.length if beginning else 0
        with self.adapters.using(adapter) as model:
            for batch in by_length(prompts, self.tokens_per_batch):
                ids = pad_right([row[skipped:] for row in batch], model.device)
                more: dict[str, Any] = {"use_cache": keys_values}
                if beginning is not None:
                    cache, mask = side_by_side([beginning], [0] * len(batch), ids.shape[1])
                    positions = torch.arange(skipped, skipped + ids.shape[1], device=ids.device)
                    more = {
                        "use_cache": True,
                        "past_key_values": cache,
                        "attention_mask": mask,
                        "position_ids": positions.expand_as(ids),
                    }
                elif keys_values:
                    more["past_key_values"] = DynamicCache()
                hidden = hidden_states(model, ids, **more)
                ends = torch.tensor([len(row) - 1 - skipped for row in batch], device=ids.device)
                last = head(model, hidden[torch.arange(len(batch), device=ids.device), ends])
                stacked = None
                if keys_values:
                    layers = more["past_key_values"].layers
                    stacked = torch.stack([torch.stack([x.keys, x.values]) for x in layers])
                for row, tokens in enumerate(batch):
                    kept = None
                    if stacked is not None:
                        kept = stacked[:, :, row, :, : len(tokens)].clone()
                    yield tokens, Prefix(len(tokens), last[row].clone(), kept)


def common_beginning(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The tokens that all prompts begin with; each has at least one more."""
    if not prompts:
        return ()
    first, last = min(prompts), max(prompts)
    most = min(len(prompt) for prompt in prompts) - 1
    length = 0
    while length < most and first[length] == last[length]:
        length += 1
    return first[:length]


def side_by_side(
    prefixes: Sequence[Prefix], rows: Sequence[int], room: int
) -> tuple[DynamicCache, Tensor]:
    """Lay prefixes in a batch, padded on the left, with the same prefix on as many rows as wanted.

    Args:
        prefixes: each with keys and values.
        rows: for each row of the batch, the index of its prefix.
        room: columns that will follow the prefixes.

    Returns:
        The cache; and the mask of columns that a row may look at, shape (rows, longest + room),
        whose columns behind the prefixes are all ones.
    """
    longest = max(prefix.length for prefix in prefixes)
    first = prefixes[0].keys_values
    assert first is not None
    layers, _, heads, _, size = first.shape
    laid = first.new_zeros((layers, 2, len(prefixes), heads, longest, size))
    mask = torch.zeros((len(prefixes), longest + room), dtype=torch.long, device=first.device)
    mask[:, longest:] = 1
    for position, prefix in enumerate(prefixes):
        assert prefix.keys_values is not None
        laid[:, :, position, :, longest - prefix.length :] = prefix.keys_values
        mask[position, longest - prefix.length : longest] = 1
    index = torch.tensor(list(rows), device=first.device)
    if list(rows) != list(range(len(prefixes))):
        laid = laid.index_select(2, index)
        mask = mask.index_select(0, index)
    cache = DynamicCache()
    for layer in range(layers):
        cache.update(laid[layer, 0], laid[layer, 1], layer)
    return cache, mask


def check_layers(config: Any) -> None:
    """Raise if the model has layers whose past is not plain keys and values.

    Windowed attention is fine: the cache keeps all, and the model's mask hides what is too old.
    """
    other = _layer_types(config) - {"full_attention", "sliding_attention"}
    if other:
        raise UsageError(
            f"this model has layers of a kind that flowtune cannot go on from: {sorted(other)}."
            " Choose a model with attention layers only."
        )


def windowed(config: Any) -> bool:
    """Whether some layers look back over a window only."""
    text = config.get_text_config(decoder=True)
    return "sliding_attention" in _layer_types(config) or bool(
        getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    )


def _layer_types(config: Any) -> set[str]:
    return set(getattr(config.get_text_config(decoder=True), "layer_types", None) or ())


def hidden_states(model: Any, ids: Tensor, **more: Any) -> Tensor:
    """The decoder's last hidden states, shape (rows, columns, hidden size)."""
    states: Tensor = model.get_decoder()(input_ids=ids, **more).last_hidden_state
    return states


def head(model: Any, hidden: Tensor) -> Tensor:
    """Logits of hidden states, shape (..., vocabulary), with the model's own scaling of them."""
    logits: Tensor = model.get_output_embeddings()(hidden)
    config = model.config.get_text_config(decoder=True)
    if getattr(config, "logits_scaling", None):
        logits = logits / config.logits_scaling
    if getattr(config, "logit_scale", None):
        logits = logits * config.logit_scale
    if getattr(config, "final_logit_softcapping", None):
        cap = config.final_logit_softcapping
        logits = torch.tanh(logits / cap) * cap
    return logits


def pad_right(rows: Sequence[Sequence[int]], device: Any) -> Tensor:
    """Token ids as a matrix, shape (rows, longest); zeros stand where a row has ended."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)


def by_length(rows: Sequence[tuple[int, ...]], budget: int) -> list[list[tuple[int, ...]]]:
    """Batches of rows of like lengths whose padded size is within a budget of tokens."""
    batches: list[list[tuple[int, ...]]] = []
    for row in sorted(rows, key=len, reverse=True):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0]) <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
