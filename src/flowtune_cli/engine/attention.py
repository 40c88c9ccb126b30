"""Attention over parts of the columns, merged by log-sum-exp into attention over all of them.

With ``o`` the softmax attention over a part of the columns and ``lse`` the log of the sum of that
part's exponentiated scores, attention over two parts is ``w * o_1 + (1 - w) * o_2``,
``w = sigmoid(lse_1 - lse_2)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_FLASH: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
"""Torch's flash attention for processors, which returns the log-sum-exp beside the output."""


def attend_with_lse(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """Attention over some columns, and the log-sum-exp of its scores.

    Args:
        queries: shape (rows, heads, queries, head size).
        keys, values: shape (rows, key-value heads, columns, head size).
        mask: minus infinity where a query may not attend, else 0; broadcast to the scores.
        causal: query i attends to columns 0 to i alone; there are as many queries as columns.

    Returns:
        Shapes (rows, heads, queries, head size), and (rows, heads, queries, 1) in float32.
    """
    if _FLASH is not None and queries.device.type == "cpu":
        output, lse = _FLASH(queries, keys, values, 0.0, causal, attn_mask=mask, scale=scale)
        return output, lse[..., None]
    rows, heads, columns, size = queries.shape
    groups = keys.shape[1]
    grouped = queries.reshape(rows, groups, heads // groups, columns, size) * scale
    scores = torch.matmul(grouped, keys[:, :, None].transpose(-1, -2)).float()
    if mask is not None:
        scores += mask[:, :, None]
    if causal:
        later = torch.ones((columns, columns), dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    lse = torch.logsumexp(scores, dim=-1, keepdim=True)
    weights = torch.exp(scores - lse).to(values.dtype)
    output = torch.matmul(weights, values[:, :, None])
    return output.view(queries.shape), lse.view(rows, heads, columns, 1)


def merge(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """Attention over two parts of the columns, from each part's output and log-sum-exp."""
    weight = torch.sigmoid(one[1] - other[1]).to(one[0].dtype)
    return torch.lerp(other[0], one[0], weight)
