"""Cascade attention: tokens attend to shared prefixes once, to their own suffixes apart.

The keys and values of a prefix are read once for all tokens that follow it, in place; each token
attends to its own sequence's suffix apart, and the two are merged by log-sum-exp (Hydragen,
Juravsky et al. 2024, arXiv:2402.05099). Prefill and decode differ in how suffixes lie in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ..flow.errors import FlowtuneError
from .attention import merge
from .forward import hidden_states
from .shared_prefixes import SharedPrefixes

_NAME = "flowtune"


def can_replace_attention(model: Any) -> bool:
    """Whether a model says nothing against it: its attention is softmax over all columns.

    What it does say, ``proof`` checks.
    """
    config = model.config.get_text_config(decoder=True)
    return attention_is_replaced(model) or not (
        getattr(config, "attn_logit_softcapping", None)
        or getattr(config, "attention_sink", None)
        or config._attn_implementation != "sdpa"
        or not getattr(model, "_supports_attention_backend", False)
    )


def attention_is_replaced(model: Any) -> bool:
    """Whether ``replace_attention`` was called last."""
    config = model.config.get_text_config(decoder=True)
    return bool(config._attn_implementation == _NAME)


def replace_attention(model: Any) -> None:
    """Let caches replace the model's attention.

    The model attends as before in forward passes without a ``CascadeCache``.
    """
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    model.set_attn_implementation(_NAME)


def restore_attention(model: Any) -> None:
    """Let the model attend in its own way again."""
    if attention_is_replaced(model):
        model.set_attn_implementation("sdpa")


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    cascade: CascadeCache | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """What the model's layers call."""
    if cascade is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return cascade.attend(module.layer_idx, query, key, value, scale), None


class Suffixes(Protocol):
    """The keys and values of tokens that no other sequence attends to."""

    def attend(
        self, layer: int, query: Tensor, keys: Tensor, values: Tensor, scale: float, with_lse: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Attention of new tokens to their own suffixes, and the log-sum-exp if wanted.

        Args:
            query: shape (tokens, key-value heads, queries per head, head size).
            keys, values: of the same tokens; shape (tokens, key-value heads, head size).

        Returns:
            The shape of the query, and the same with 1 in place of the head size.
        """


class CascadeCache(Cache):
    """What the tokens of a forward pass attend to.

    Args:
        suffixes: the tokens' own sequences.
        prefixes: what comes before them, the tokens of the first group before those of the second;
            nothing if empty.
    """

    def __init__(self, suffixes: Suffixes, prefixes: Sequence[SharedPrefixes]) -> None:
        super().__init__(layers=[])
        self.suffixes = suffixes
        self.prefixes = prefixes
        self._layers = 0

    def forward(self, model: Any, ids: Tensor, positions: Tensor) -> Tensor:
        """Hidden states of new tokens, in rows of any shape: (*ids.shape, hidden size).

        Raises:
            FlowtuneError: some of the model's layers attended in a way of their own.
        """
        self._layers = 0
        states = hidden_states(
            model,
            ids,
            # Four dimensions: the model makes no mask of its own.
            attention_mask=torch.ones((1, 1, 1, 1), dtype=torch.bool, device=ids.device),
            position_ids=positions,
            cache=self,
            cascade=self,
        )
        layers = model.config.get_text_config(decoder=True).num_hidden_layers
        if self._layers != layers:
            raise FlowtuneError(
                f"the model's attention was replaced in {self._layers} of {layers} layers"
            )
        return states

    def attend(
        self, layer: int, query: Tensor, keys: Tensor, values: Tensor, scale: float
    ) -> Tensor:
        """Attention of new tokens.

        Args:
            query: shape (rows, heads, columns, head size).
            keys, values: shape (rows, key-value heads, columns, head size).

        Returns:
            Shape (rows, columns, heads, head size).
        """
        self._layers += 1
        # The heads of a token side by side, as they come out of the layer's projections.
        query, keys, values = (x.transpose(1, 2) for x in (query, keys, values))
        tokens = query.flatten(0, 1).unflatten(1, (keys.shape[2], -1))
        output, lse = self.suffixes.attend(
            layer, tokens, keys.flatten(0, 1), values.flatten(0, 1), scale, bool(self.prefixes)
        )
        if lse is not None:
            output = merge((output, lse), self._attend_to_prefixes(layer, tokens, scale))
        return output.reshape(query.shape)

    def _attend_to_prefixes(self, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        parts = query.split([len(prefixes.owners) for prefixes in self.prefixes])
        found = [
            prefixes.attend(layer, part, scale)
            for prefixes, part in zip(self.prefixes, parts, strict=True)
        ]
        if len(found) == 1:
            return found[0]
        outputs, lses = zip(*found, strict=True)
        return torch.cat(outputs), torch.cat(lses)

    # What transformers asks of a cache

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """New keys and values as they are; ``attend`` gets them."""
        return keys, values

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        """Nothing depends on it: positions and mask are passed in."""
        return 0
