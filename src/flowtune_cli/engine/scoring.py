"""Scoring: the log-likelihood of completions after prompts, by prefixes or with gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .adapters import Adapters
from .continuation import go_on
from .forward import head, hidden_states, pad_right, windowed
from .prefix import Prefix
from .prefixes import Prefixes

Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a prompt and of a completion."""


@torch.inference_mode()
def score(
    prefixes: Prefixes, adapter: str | None, pairs: Sequence[Pair], *, keep: bool
) -> list[float]:
    """Sum of log-probabilities, in nats, of each completion after its prompt.

    Each different prompt is read once; completions of one token then cost nothing more.

    Args:
        keep: remember the prompts' keys and values, for completions that are scored later.
    """
    longer = any(len(completion) > 1 for _, completion in pairs)
    read = prefixes.read(
        adapter, [prompt for prompt, _ in pairs], keep=keep, keys_values=keep or longer
    )
    first = _first_tokens(read, [completion[0] for _, completion in pairs])
    rest = [i for i, (_, completion) in enumerate(pairs) if len(completion) > 1]
    for batch in _score_batches(rest, pairs, read, prefixes.tokens_per_batch):
        values = _go_on(
            prefixes.adapters, adapter, [read[i] for i in batch], [pairs[i][1] for i in batch]
        )
        for i, value in zip(batch, values, strict=True):
            first[i] += value
    return first


def likelihoods(adapters: Adapters, adapter: str | None, pairs: Sequence[Pair]) -> Tensor:
    """Like ``score``, in one forward pass that gradients can flow through.

    Completions of one prompt share its row: they follow it one after another, each at the
    positions right behind the prompt, and a mask hides them from each other.

    Returns:
        Sums of log-probabilities in nats, shape (pairs,), float32.
    """
    of_prompt: dict[tuple[int, ...], list[int]] = {}
    for index, (prompt, _) in enumerate(pairs):
        of_prompt.setdefault(prompt, []).append(index)
    if windowed(adapters.model.config) or len(of_prompt) == len(pairs):
        rows = [([index], pairs[index][0]) for index in range(len(pairs))]
    else:
        rows = [(members, prompt) for prompt, members in of_prompt.items()]

    ids: list[list[int]] = []
    spans: list[list[tuple[int, int]]] = []
    owner: list[int] = []
    at: list[int] = []
    column: list[int] = []
    token: list[int] = []
    for row, (members, prompt) in enumerate(rows):
        ids.append(list(prompt))
        spans.append([])
        for index in members:
            completion = pairs[index][1]
            if not completion:
                continue
            start = len(ids[-1])
            ids[-1] += completion[:-1]
            spans[-1].append((start, len(ids[-1])))
            owner += [index] * len(completion)
            at += [row] * len(completion)
            column += [len(prompt) - 1, *range(start, len(ids[-1]))]
            token += completion
    with adapters.using(adapter) as model:
        device = model.device
        padded = pad_right(ids, device)
        packed = {}
        if any(len(members) > 1 for members, _ in rows):
            packed = _packing([len(prompt) for _, prompt in rows], spans, padded, model.dtype)
        hidden = hidden_states(model, padded, use_cache=False, **packed)
        logits = head(
            model, hidden[torch.tensor(at, device=device), torch.tensor(column, device=device)]
        )
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    chosen = logprobs.gather(1, torch.tensor(token, device=device)[:, None])[:, 0]
    owners = torch.tensor(owner, device=device)
    sums: Tensor = torch.zeros(len(pairs), device=device).index_add(0, owners, chosen)
    return sums


def _packing(
    prompts: Sequence[int],
    spans: Sequence[Sequence[tuple[int, int]]],
    padded: Tensor,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Positions, and the additive mask that keeps a row's completions apart.

    Args:
        prompts: each row's prompt length.
        spans: each row's completions, as (first column, column behind the last).

    Returns:
        ``position_ids`` of shape (rows, columns), and ``attention_mask`` of shape
        (rows, 1, columns, columns): 0 where a column may look, else the dtype's least value.
    """
    rows, columns = padded.shape
    positions = torch.arange(columns).repeat(rows, 1)
    # Segment 0 is the prompt; each completion has a number of its own.
    segment = torch.zeros((rows, columns), dtype=torch.long)
    for row, (prompt, completions) in enumerate(zip(prompts, spans, strict=True)):
        for number, (start, end) in enumerate(completions, 1):
            segment[row, start:end] = number
            positions[row, start:end] = torch.arange(prompt, prompt + end - start)
    causal = torch.ones((columns, columns), dtype=torch.bool).tril()
    alike = (segment[:, :, None] == segment[:, None, :]) | (segment == 0)[:, None, :]
    allowed = (causal & alike)[:, None].to(padded.device)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=padded.device)
    mask.masked_fill_(~allowed, torch.finfo(dtype).min)
    return {"position_ids": positions.to(padded.device), "attention_mask": mask}


def _first_tokens(read: Sequence[Prefix], tokens: Sequence[int]) -> list[float]:
    different = {id(prefix): prefix.logits for prefix in read}
    logits = torch.stack([given for given in different.values() if given is not None])
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    number = {prompt: row for row, prompt in enumerate(different)}
    rows = torch.tensor([number[id(prefix)] for prefix in read], device=logits.device)
    values: list[float] = logprobs[rows, torch.tensor(tokens, device=logits.device)].tolist()
    return values


def _go_on(
    adapters: Adapters,
    adapter: str | None,
    read: Sequence[Prefix],
    completions: Sequence[tuple[int, ...]],
) -> list[float]:
    """Log-probabilities of all but each completion's first token, summed."""
    different = list({id(prefix): prefix for prefix in read}.values())
    index = {id(prefix): i for i, prefix in enumerate(different)}
    inputs = [completion[:-1] for completion in completions]
    width = max(len(row) for row in inputs)
    with adapters.using(adapter) as model:
        ids = pad_right(inputs, model.device)
        rows = [index[id(prefix)] for prefix in read]
        hidden = go_on(model, different, rows, width).forward(ids)
        real = torch.tensor(
            [[j < len(row) for j in range(width)] for row in inputs], device=ids.device
        )
        logprobs = torch.log_softmax(head(model, hidden[real]).float(), dim=-1)
    targets = torch.tensor(
        [token for completion in completions for token in completion[1:]], device=ids.device
    )
    values = logprobs.gather(1, targets[:, None])[:, 0]
    owners = torch.arange(len(inputs), device=ids.device)[:, None].expand_as(real)[real]
    sums: list[float] = (
        torch.zeros(len(inputs), device=ids.device).index_add(0, owners, values).tolist()
    )
    return sums


def _score_batches(
    rest: Sequence[int], pairs: Sequence[Pair], read: Sequence[Prefix], budget: int
) -> list[list[int]]:
    """Rows of like prefix lengths, bounded by the size of their keys and values."""
    batches: list[list[int]] = []
    longest = 0
    for i in sorted(rest, key=lambda i: -read[i].length):
        size = read[i].length + len(pairs[i][1])
        longest = max(longest, size)
        if batches and (len(batches[-1]) + 1) * longest <= 4 * budget:
            batches[-1].append(i)
        else:
            batches.append([i])
            longest = size
    return batches
