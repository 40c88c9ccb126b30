"""Scoring: the log-likelihood of completions after prompts, by prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .forward import head
from .likelihoods import Pair
from .packing import Ids
from .prefix import Prefix
from .prefixes import Prefixes
from .reading import Text, passes, read

_LOGITS = 512
"""Tokens whose logits are held at once."""


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
    read_prompts = prefixes.read(
        adapter,
        [pair.prompt for pair in pairs],
        keep=keep,
        keys_values=keep or longer,
        contexts=[pair.context for pair in pairs],
    )
    first = _first_tokens(read_prompts, [pair.completion[0] for pair in pairs])
    rest = [i for i, pair in enumerate(pairs) if len(pair.completion) > 1]
    texts = [Text(pairs[i].completion[:-1], read_prompts[i]) for i in rest]
    for batch in passes(prefixes.adapters.model, texts, prefixes.tokens_per_batch):
        with prefixes.adapters.using(adapter) as model:
            found = read(model, [texts[place] for place in batch], keep=False)
            following = [pairs[rest[place]].completion[1:] for place in batch]
            values = _sums(model, found.hidden, following)
        for place, value in zip(batch, values, strict=True):
            first[rest[place]] += value
    return first


def _first_tokens(read: Sequence[Prefix], tokens: Sequence[int]) -> list[float]:
    different = {id(prefix): prefix.logits for prefix in read}
    logits = torch.stack([given for given in different.values() if given is not None])
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    number = {prompt: row for row, prompt in enumerate(different)}
    rows = torch.tensor([number[id(prefix)] for prefix in read], device=logits.device)
    values: list[float] = logprobs[rows, torch.tensor(tokens, device=logits.device)].tolist()
    return values


def _sums(model: Any, hidden: Sequence[Tensor], tokens: Sequence[Ids]) -> list[float]:
    """Log-probabilities, summed, of the tokens that follow each text's hidden states."""
    states = torch.cat(list(hidden))
    targets = torch.tensor([token for ids in tokens for token in ids], device=states.device)
    # Logits are large: all at once could take gigabytes.
    values = torch.cat(
        [
            logits.gather(1, target[:, None])[:, 0] - logits.logsumexp(dim=-1)
            for some, target in zip(states.split(_LOGITS), targets.split(_LOGITS), strict=True)
            for logits in (head(model, some).float(),)
        ]
    )
    owners = torch.tensor(
        [text for text, ids in enumerate(tokens) for _ in ids], device=states.device
    )
    sums: list[float] = values.new_zeros(len(tokens)).index_add(0, owners, values).tolist()
    return sums
