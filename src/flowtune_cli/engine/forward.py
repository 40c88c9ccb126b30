"""Forward passes through the base model's decoder, and which models have one that fits."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from ..flow.errors import UsageError


def check_layers(config: Any) -> None:
    """Raise if the model has layers whose past is not plain keys and values.

    Windowed attention is fine: the cache keeps all, and the model's mask hides what is too old.
    """
    other = _layer_types(config) - {"full_attention", "sliding_attention"}
    if other:
        raise UsageError(
            f"this model has layers of a kind whose past flowtune cannot cache: {sorted(other)}."
            " Choose a model with attention layers only."
        )


def has_sliding_window(config: Any) -> bool:
    """Whether some layers attend to a window of the past only."""
    text = config.get_text_config(decoder=True)
    return "sliding_attention" in _layer_types(config) or bool(
        getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    )


def _layer_types(config: Any) -> set[str]:
    return set(getattr(config.get_text_config(decoder=True), "layer_types", None) or ())


def cache_argument(model: Any) -> str:
    """What a model calls its cache: "cache" since transformers 5.24, "past_key_values" before."""
    return _cache_argument(type(model).forward)


@functools.cache
def _cache_argument(forward: Any) -> str:
    return "cache" if "cache" in signature(forward).parameters else "past_key_values"


def with_cache(model: Any, cache: Cache) -> dict[str, Any]:
    """The arguments with which a model uses a cache."""
    return {cache_argument(model): cache, "use_cache": True}


def hidden_states(model: Any, ids: Tensor, *, cache: Cache, **more: Any) -> Tensor:
    """The decoder's last hidden states of tokens after a cache: (rows, columns, hidden size)."""
    decoder = model.get_decoder()
    states: Tensor = decoder(input_ids=ids, **with_cache(decoder, cache), **more).last_hidden_state
    return states


def compute_logits(model: Any, states: Tensor) -> Tensor:
    """Logits of hidden states, shape (..., vocabulary), with the model's own scaling of them."""
    logits: Tensor = model.get_output_embeddings()(states)
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
    """Token ids as a matrix, shape (rows, longest); zeros where a row has ended."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
