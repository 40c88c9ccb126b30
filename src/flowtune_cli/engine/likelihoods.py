"""The log-likelihood of completions after prompts, with gradients: what nodes learn from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .adapters import Adapters
from .batches import batches
from .forward import head, hidden_states, pad_right, windowed
from .packing import Ids, Row, masks, pack

Pair = tuple[Ids, Ids]
"""Token ids of a prompt and of a completion."""


def likelihoods(adapters: Adapters, adapter: str | None, pairs: Sequence[Pair]) -> Tensor:
    """Sum of log-probabilities of each completion after its prompt, with gradients.

    Texts that begin alike are packed into one row, so a prompt is read once for its completions,
    and what prompts have in common once for all. Rows of like lengths are read together.

    Returns:
        Sums in nats, shape (pairs,), float32.
    """
    rows = packed(adapters, pairs)
    owners: dict[Ids, list[int]] = {}
    for index, pair in enumerate(pairs):
        if pair[1]:
            owners.setdefault(_text(pair), []).append(index)
    sums = torch.zeros(len(pairs), device=adapters.model.device)
    with adapters.using(adapter) as model:
        for batch in batches([len(row.ids) for row in rows], math.inf):
            found, logprobs = _read(model, [rows[i] for i in batch], pairs, owners)
            sums = sums.index_add(0, found, logprobs)
    return sums


def packed(adapters: Adapters, pairs: Sequence[Pair]) -> list[Row]:
    """The rows in which completions are read after their prompts."""
    texts = [_text(pair) for pair in pairs if pair[1]]
    return pack(texts, share=not windowed(adapters.model.config))


def _text(pair: Pair) -> Ids:
    """What is read: nothing follows a completion's last token."""
    prompt, completion = pair
    return (*prompt, *completion[:-1])


def _read(
    model: Any, rows: Sequence[Row], pairs: Sequence[Pair], owners: Mapping[Ids, Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Each completion token's pair and log-probability, by one forward pass."""
    at: list[int] = []
    column: list[int] = []
    token: list[int] = []
    owner: list[int] = []
    for number, row in enumerate(rows):
        for text, columns in row.columns.items():
            for index in owners[text]:
                prompt, completion = pairs[index]
                at += [number] * len(completion)
                column += columns[len(prompt) - 1 :]
                token += completion
                owner += [index] * len(completion)
    device = model.device
    ids = pad_right([row.ids for row in rows], device)
    kept_apart = {
        name: tensor.to(device) for name, tensor in masks(rows, ids.shape[1], model.dtype).items()
    }
    hidden = hidden_states(model, ids, use_cache=False, **kept_apart)
    places = torch.tensor([at, column], device=device)
    logprobs = torch.log_softmax(head(model, hidden[places[0], places[1]]).float(), dim=-1)
    chosen = logprobs.gather(1, torch.tensor(token, device=device)[:, None])[:, 0]
    return torch.tensor(owner, device=device), chosen
