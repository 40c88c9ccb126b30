"""Kernels of attention that give the log-sum-exp, too, and which one is for which tensors.

torch's own fused kernels do, below ``scaled_dot_product_attention``, which keeps it to itself. They
are private: their signatures are those of torch 2.13, their rules (sizes, strides, padding) are
kept here, and where they have changed, ``proof`` takes another way. Where none applies, scores are
computed in blocks of bounded size.

All have one signature: queries of shape (rows, heads, queries, head size), keys and values of shape
(rows, key-value heads, columns, head size), the scale, a mask (see ``attention.padding_mask``) or
None, and whether query i attends to columns 0 to i alone. They return the shape of the queries, and
the log-sum-exp without its last dimension, in float32.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Kernel = Literal["cpu", "flash", "efficient", "blocks"]

_ALIGNED = 8
"""Head sizes that kernels of GPUs take are multiples of this."""

_FLASH_LARGEST_HEAD = 256

_EFFICIENT_SINCE = {torch.float32: (5, 0), torch.float16: (5, 0), torch.bfloat16: (8, 0)}
"""The compute capability from which on memory-efficient attention takes a type."""

MOST_SCORES = 2**24
"""Scores that are computed at once in blocks: 64 MiB, as much again for their exponentials."""


def choose(device: torch.device, dtype: torch.dtype, *, head_size: int, masked: bool) -> Kernel:
    """The fastest kernel that takes such tensors."""
    if device.type == "cpu" and _has("_scaled_dot_product_flash_attention_for_cpu"):
        return "cpu"
    if device.type != "cuda":
        return "blocks"
    return choose_for_gpu(
        compute_capability(device.index or 0), dtype, head_size=head_size, masked=masked
    )


def choose_for_gpu(
    capability: tuple[int, int] | None, dtype: torch.dtype, *, head_size: int, masked: bool
) -> Kernel:
    """See ``choose``.

    Args:
        capability: the GPU's compute capability; None if it is not of NVIDIA, where the same
            kernels have other rules.
    """
    if capability is None:
        return "blocks"
    halves = dtype in (torch.float16, torch.bfloat16)
    fits = halves and not masked and head_size <= _FLASH_LARGEST_HEAD
    if fits and capability >= (8, 0) and _has("_scaled_dot_product_flash_attention"):
        return "flash"
    least = _EFFICIENT_SINCE.get(dtype)
    if least and capability >= least and _has("_scaled_dot_product_efficient_attention"):
        return "efficient"
    return "blocks"


@functools.cache
def compute_capability(index: int) -> tuple[int, int] | None:
    """Of a GPU, by its number; None if it is not of NVIDIA."""
    if torch.version.hip is not None:
        return None
    return torch.cuda.get_device_capability(index)


def _has(name: str) -> bool:
    return hasattr(torch.ops.aten, name)


class _Attend(Protocol):
    def __call__(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        scale: float,
        mask: Tensor | None,
        causal: bool,
    ) -> tuple[Tensor, Tensor]: ...


def cpu(
    queries: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """Flash attention for processors."""
    kernel: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output, lse = kernel(queries, keys, values, 0.0, causal, attn_mask=mask, scale=scale)
    return output, lse


def flash(
    queries: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """FlashAttention-2 (Dao 2023, arXiv:2307.08691): halves without a mask; groups of heads."""
    assert mask is None
    size = queries.shape[-1]
    kernel: Any = torch.ops.aten._scaled_dot_product_flash_attention
    padded = (_pad_heads(x) for x in (queries, keys, values))
    output, lse, *_ = kernel(*padded, 0.0, causal, False, scale=scale)
    return output[..., :size], lse


def efficient(
    queries: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """Memory-efficient attention (Rabe and Staats 2021, arXiv:2112.05682), as in xFormers."""
    rows, heads, count, size = queries.shape
    if heads != keys.shape[1]:
        keys, values = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (keys, values))
    if mask is not None:
        mask = mask.expand(rows, heads, count, keys.shape[2])
    kernel: Any = torch.ops.aten._scaled_dot_product_efficient_attention
    padded = (_pad_heads(x) for x in (queries, keys, values))
    output, lse, *_ = kernel(*padded, mask, True, 0.0, causal, scale=scale)
    # There are more than as many as queries: it pads them to a multiple of 32.
    return output[..., :size], lse[..., :count]


def _pad_heads(x: Tensor) -> Tensor:
    """Zeros behind each head change no score and no output but their own."""
    more = -x.shape[-1] % _ALIGNED
    return torch.nn.functional.pad(x, (0, more)) if more else x


def blocks(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    mask: Tensor | None,
    causal: bool,
    *,
    most: int = MOST_SCORES,
) -> tuple[Tensor, Tensor]:
    """The formula, in float32, over blocks of columns, merged by their log-sum-exp.

    Args:
        most: scores that are held at once; those of one query and column in all heads are, at
            least.
    """
    rows, heads, count, _ = queries.shape
    columns = keys.shape[2]
    # Columns first, as the blocks of those are merged; then queries, then rows.
    width = min(max(most // heads, 1), columns)
    height = min(max(most // (heads * width), 1), count)
    depth = min(max(most // (heads * width * height), 1), rows)
    output = torch.empty_like(queries)
    lse = queries.new_empty((rows, heads, count), dtype=torch.float32)
    for row in range(0, rows, depth):
        at = slice(row, row + depth)
        masks = mask if mask is None or len(mask) == 1 else mask[at]
        for begin in range(0, count, height):
            part = slice(begin, begin + height)
            found = _one_block_of_queries(
                queries[at, :, part],
                keys[at],
                values[at],
                scale,
                masks,
                width,
                begin if causal else None,
            )
            output[at, :, part], lse[at, :, part] = found
    return output, lse


def _one_block_of_queries(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    mask: Tensor | None,
    width: int,
    first: int | None,
) -> tuple[Tensor, Tensor]:
    """Online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867) over the columns.

    Args:
        width: columns in a block.
        first: the column that is the first query's own; None if not causal.
    """
    rows, heads, count, size = queries.shape
    groups = keys.shape[1]
    grouped = queries.reshape(rows, groups, heads // groups, count, size).float() * scale
    end = keys.shape[2] if first is None else first + count
    total = torch.zeros_like(grouped)
    lse = torch.full_like(grouped[..., :1], -torch.inf)
    for begin in range(0, end, width):
        block = slice(begin, min(begin + width, end))
        scores = grouped @ keys[:, :, None, block].float().transpose(-1, -2)
        if mask is not None:
            scores += mask[:, :, None, :, block]
        if first is not None:
            own = torch.arange(first, first + count, device=scores.device)
            later = torch.arange(block.start, block.stop, device=scores.device) > own[:, None]
            scores.masked_fill_(later, -torch.inf)
        both = torch.logaddexp(lse, scores.logsumexp(dim=-1, keepdim=True))
        # Of a query that attended to nothing yet there is nothing to scale.
        finite = both.masked_fill(both == -torch.inf, 0.0)
        total *= torch.exp(lse - finite)
        total += scores.sub_(finite).exp_() @ values[:, :, None, block].float()
        lse = both
    return total.to(queries.dtype).view(queries.shape), lse.view(rows, heads, count)


KERNELS: dict[Kernel, _Attend] = {
    "cpu": cpu,
    "flash": flash,
    "efficient": efficient,
    "blocks": blocks,
}
