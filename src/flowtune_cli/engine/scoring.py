"""Scoring: the log-likelihood of completions after prompts, by prefixes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .adapters import Adapters
from .batches import batches
from .continuation import go_on
from .forward import head, pad_right
from .likelihoods import Pair
from .prefix import Prefix
from .prefixes import Prefixes


@torch.inference_mode()
def score(
    prefixes: Prefixes, adapter: str | None, pairs: Sequence[Pair], *, keep: bool
) -> list[float]:
    """Sum of log-probabilities, in nats, of each completion after its prompt.

    Each different prompt is read once; completions of one token then cost nothing more.

    Args:
        keep: remember the prompts' keys and values, for completions that are scored later.
    """
    longer = any(len(pair.completion) > 1 for pair in pairs)
    read = prefixes.read(
        adapter,
        [pair.prompt for pair in pairs],
        keep=keep,
        keys_values=keep or longer,
        contexts=[pair.context for pair in pairs],
    )
    first = _first_tokens(read, [pair.completion[0] for pair in pairs])
    rest = [i for i, pair in enumerate(pairs) if len(pair.completion) > 1]
    widths = [len(pairs[i].completion) - 1 for i in rest]
    parents = [(id(read[i]), read[i].length) for i in rest]
    for places in batches(widths, prefixes.tokens_per_batch, parents):
        batch = [rest[place] for place in places]
        values = _go_on(
            prefixes.adapters,
            adapter,
            [read[i] for i in batch],
            [pairs[i].completion for i in batch],
        )
        for i, value in zip(batch, values, strict=True):
            first[i] += value
    return first


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
