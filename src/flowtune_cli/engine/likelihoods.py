"""The log-likelihood of completions after prompts, with gradients: what nodes learn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .adapters import Adapters
from .batches import batches
from .forward import head, hidden_states, pad_right, windowed

Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a prompt and of a completion."""


@dataclass
class _Row:
    """A prompt with its completions behind it, one after another.

    Each completion's first token follows the prompt's last; ``spans`` are the columns of its
    others, ``owners`` the pairs that they belong to.
    """

    prompt: int
    ids: list[int]
    spans: list[tuple[int, int]] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)


def likelihoods(adapters: Adapters, adapter: str | None, pairs: Sequence[Pair]) -> Tensor:
    """Sum of log-probabilities of each completion after its prompt, with gradients.

    Completions of one prompt share its row: they follow it one after another, each at the
    positions right behind the prompt, and a mask hides them from each other. Rows of like lengths
    are read together.

    Returns:
        Sums in nats, shape (pairs,), float32.
    """
    shared = not windowed(adapters.model.config)
    rows: dict[object, _Row] = {}
    for index, (prompt, completion) in enumerate(pairs):
        row = rows.setdefault(prompt if shared else index, _Row(len(prompt), list(prompt)))
        if completion:
            start = len(row.ids)
            row.ids += completion[:-1]
            row.spans.append((start, len(row.ids)))
            row.owners.append(index)
    sums = torch.zeros(len(pairs), device=adapters.model.device)
    wanted = [row for row in rows.values() if row.owners]
    widths = [len(row.ids) for row in wanted]
    with adapters.using(adapter) as model:
        for batch in batches(widths, math.inf):
            owners, logprobs = _read(model, [wanted[i] for i in batch], pairs)
            sums = sums.index_add(0, owners, logprobs)
    return sums


def _read(model: Any, rows: Sequence[_Row], pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Each completion token's pair and log-probability, by one forward pass."""
    at: list[int] = []
    column: list[int] = []
    token: list[int] = []
    owner: list[int] = []
    for number, row in enumerate(rows):
        for index, (start, end) in zip(row.owners, row.spans, strict=True):
            completion = pairs[index][1]
            at += [number] * len(completion)
            column += [row.prompt - 1, *range(start, end)]
            token += completion
            owner += [index] * len(completion)
    device = model.device
    ids = pad_right([row.ids for row in rows], device)
    packed = {}
    if any(len(row.spans) > 1 for row in rows):
        packed = _packing(rows, ids, model.dtype)
    hidden = hidden_states(model, ids, use_cache=False, **packed)
    places = torch.tensor([at, column], device=device)
    logprobs = torch.log_softmax(head(model, hidden[places[0], places[1]]).float(), dim=-1)
    chosen = logprobs.gather(1, torch.tensor(token, device=device)[:, None])[:, 0]
    return torch.tensor(owner, device=device), chosen


def _packing(packed: Sequence[_Row], padded: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Positions, and the additive mask that keeps a row's completions apart.

    Returns:
        ``position_ids`` of shape (rows, columns), and ``attention_mask`` of shape
        (rows, 1, columns, columns): 0 where a column may look, else the dtype's least value.
    """
    rows, columns = padded.shape
    positions = torch.arange(columns).repeat(rows, 1)
    # Segment 0 is the prompt; each completion has a number of its own.
    segment = torch.zeros((rows, columns), dtype=torch.long)
    for place, row in enumerate(packed):
        for number, (start, end) in enumerate(row.spans, 1):
            segment[place, start:end] = number
            positions[place, start:end] = torch.arange(row.prompt, row.prompt + end - start)
    causal = torch.ones((columns, columns), dtype=torch.bool).tril()
    alike = (segment[:, :, None] == segment[:, None, :]) | (segment == 0)[:, None, :]
    allowed = (causal & alike)[:, None].to(padded.device)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=padded.device)
    mask.masked_fill_(~allowed, torch.finfo(dtype).min)
    return {"position_ids": positions.to(padded.device), "attention_mask": mask}
