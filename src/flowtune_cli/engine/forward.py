"""Forward passes through the base model's decoder, and which models have one that fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..flow.errors import UsageError


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
