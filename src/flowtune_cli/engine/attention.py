"""Attention over parts of the columns, merged by log-sum-exp into attention over all of them.

With ``o`` the softmax attention over a part of the columns and ``lse`` the log of the sum of that
part's exponentiated scores, attention over two parts is ``w * o_1 + (1 - w) * o_2``,
``w = sigmoid(lse_1 - lse_2)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import attention_kernels as kernels
from .transfers import to_device


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
        mask: what ``padding_mask`` returned.
        causal: query i attends to columns 0 to i alone; there are as many queries as columns.

    Returns:
        Shapes (rows, heads, queries, head size), and (rows, heads, queries, 1) in float32.
    """
    kernel = kernels.choose(
        queries.device,
        queries.dtype,
        head_size=queries.shape[-1],
        masked=mask is not None,
    )
    attend = kernels.KERNELS[kernel]
    output, lse = attend(queries, keys, values, scale, mask, causal)
    return output, lse[..., None]


def padding_mask(lengths: Tensor, width: int, dtype: torch.dtype, device: Any) -> Tensor:
    """What to add to scores so that nothing attends to padding on the right.

    Args:
        lengths: columns of each row, one at least; on the host.
        dtype: of the queries.

    Returns:
        Minus infinity from each row's length on, else 0; shape (rows, 1, 1, width). As the fused
        kernels want it: in float32 on a processor, else in the queries' dtype, and so that each row
        begins at a multiple of 16 values.
    """
    reserved = -(-width // 16) * 16
    if torch.device(device).type == "cpu":
        dtype, reserved = torch.float32, width
    unused = torch.arange(reserved) >= lengths[:, None]
    mask = torch.zeros(unused.shape, dtype=dtype).masked_fill(unused, -torch.inf)
    return to_device(mask, device)[:, None, None, :width]


def merge(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """Attention over two parts of the columns, from each part's output and log-sum-exp."""
    weight = torch.sigmoid(one[1] - other[1]).to(one[0].dtype)
    return torch.lerp(other[0], one[0], weight)
