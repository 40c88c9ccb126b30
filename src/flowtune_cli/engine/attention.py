"""Attention over parts of the columns, and the two parts joined to attention over both.

With ``o`` what softmax attention gives over a part of the columns and ``lse`` the log of the sum of
that part's exponentiated scores, attention over two parts is ``w * o_1 + (1 - w) * o_2``,
``w = sigmoid(lse_1 - lse_2)``. So rows can look at what they share once for all, in memory where it
lies, and at their own tokens apart.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .forward import windowed

_NAME = "flowtune"
_FLASH: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
"""Torch's attention that never holds all scores, and tells the log of their sum."""


class Looking(Protocol):
    """Rows that attend in a way of their own."""

    def attend(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """Attention of new tokens, whose keys and values came just before.

        Args:
            query: shape (rows, heads, columns, head size).

        Returns:
            Shape (rows, columns, heads, head size).
        """


def can_look_apart(model: Any) -> bool:
    """Whether attention is softmax over all columns, to be replaced; makes the model ready."""
    config = model.config.get_text_config(decoder=True)
    if config._attn_implementation == _NAME:
        return True
    plain = not (
        windowed(model.config)
        or getattr(config, "attn_logit_softcapping", None)
        or getattr(config, "attention_sink", None)
        or config._attn_implementation != "sdpa"
        or not getattr(model, "_supports_attention_backend", False)
    )
    if plain:
        AttentionInterface.register(_NAME, _attention)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        model.set_attn_implementation(_NAME)
    return plain


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    looking: Looking | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """What the model's layers call: torch's attention, or that of rows which look apart."""
    if looking is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return looking.attend(module.layer_idx, query, scale), None


def look(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    *,
    hidden: Tensor | None = None,
    causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """Attention over some columns, and the log of the sum of its exponentiated scores.

    Args:
        queries: shape (rows, heads, queries, head size).
        keys, values: shape (rows, key-value heads, columns, head size).
        hidden: minus infinity where a query may not look, else 0; broadcast to the scores.
        causal: query i looks at columns 0 to i alone; there are as many queries as columns.

    Returns:
        Shapes (rows, heads, queries, head size), and (rows, heads, queries, 1) in float32.
    """
    if _FLASH is not None and queries.device.type == "cpu":
        found, lse = _FLASH(queries, keys, values, 0.0, causal, attn_mask=hidden, scale=scale)
        return found, lse[..., None]
    rows, heads, columns, size = queries.shape
    groups = keys.shape[1]
    folded = queries.reshape(rows, groups, heads // groups, columns, size) * scale
    scores = torch.matmul(folded, keys[:, :, None].transpose(-1, -2)).float()
    if hidden is not None:
        scores += hidden[:, :, None]
    if causal:
        later = torch.ones((columns, columns), dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    lse = torch.logsumexp(scores, dim=-1, keepdim=True)
    weights = torch.exp(scores - lse).to(values.dtype)
    found = torch.matmul(weights, values[:, :, None])
    return found.view(queries.shape), lse.view(rows, heads, columns, 1)


def joined(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """Attention over two parts of the columns, from what was found in each and its ``lse``."""
    weight = torch.sigmoid(one[1] - other[1]).to(one[0].dtype)
    return torch.lerp(other[0], one[0], weight)
