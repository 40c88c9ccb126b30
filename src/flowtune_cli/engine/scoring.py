"""Scoring: the log-likelihood of completions after prompts, without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..models.out_of_memory import in_halves
from .constrained import only_allowed
from .forward import check_finite, compute_logits
from .likelihoods import Completion, logprobs_alone
from .plain import equal_rows
from .prefill import Suffix, prefill, prefill_batches
from .prefix import Prefix
from .prefix_cache import PrefixCache

_LOGITS_AT_ONCE = 512
"""Tokens whose logits are computed at once: those of all could take gigabytes."""


@torch.inference_mode()
def score(
    prefixes: PrefixCache, adapter: str | None, completions: Sequence[Completion], *, keep: bool
) -> list[float]:
    """Sum of log-probabilities, in nats, of each completion (of a token or more) after its prompt.

    Each different prompt is read once; completions of one token then cost nothing more.

    Args:
        keep: remember the prompts' keys and values, for completions that are scored later.
    """
    shared = [i for i, c in enumerate(completions) if prefixes.paths.shares(c.length)]
    found = _score_shared(prefixes, adapter, [completions[i] for i in shared], keep)
    sums = dict(zip(shared, found, strict=True))
    others = [i for i in range(len(completions)) if i not in sums]

    def score_alone(places: Sequence[int]) -> list[float]:
        chosen = [completions[others[place]] for place in places]
        values: list[float] = logprobs_alone(prefixes, adapter, chosen).tolist()
        return values

    rows = [completions[i].row(adapter) for i in others]
    for whole in equal_rows(rows, prefixes.limits.tokens_per_batch):
        for batch, values in in_halves(score_alone, whole, "scoring a text", prefixes.free):
            sums.update(zip((others[place] for place in batch), values, strict=True))
    check_finite(prefixes.adapters.model, sums.values())
    return [sums[i] for i in range(len(completions))]


def _score_shared(
    prefixes: PrefixCache, adapter: str | None, completions: Sequence[Completion], keep: bool
) -> list[float]:
    """Score completions whose prompts are read once."""
    if not completions:
        return []
    longer = [i for i, completion in enumerate(completions) if len(completion.tokens) > 1]
    prompts = prefixes.prefill(
        adapter,
        [completion.prompt for completion in completions],
        keep=keep,
        keys_values=keep or bool(longer),
        frozen_lengths=[completion.frozen_length for completion in completions],
    )
    sums = _first_tokens(prompts, completions)
    suffixes = [Suffix(completions[i].tokens[:-1], prompts[i]) for i in longer]
    model = prefixes.adapters.model

    def score_batch(batch: Sequence[int]) -> list[float]:
        with prefixes.adapters.using(adapter):
            read = prefill(model, [suffixes[place] for place in batch], keep=False)
            return _later_tokens(
                model, read.hidden_states, [completions[longer[place]] for place in batch]
            )

    for whole in prefill_batches(model, suffixes, prefixes.limits.tokens_per_batch):
        for batch, values in in_halves(score_batch, whole, "scoring a text", prefixes.free):
            for place, value in zip(batch, values, strict=True):
                sums[longer[place]] += value
    return sums


def _first_tokens(prompts: Sequence[Prefix], completions: Sequence[Completion]) -> list[float]:
    tokens = [completion.tokens[0] for completion in completions]
    different = {id(prompt): prompt.logits for prompt in prompts}
    logits = torch.stack([x for x in different.values() if x is not None])
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    number = {prompt: row for row, prompt in enumerate(different)}
    rows = torch.tensor([number[id(prompt)] for prompt in prompts], device=logits.device)
    values: list[float] = logprobs[rows, torch.tensor(tokens, device=logits.device)].tolist()
    for place, completion in enumerate(completions):
        allowed = completion.allowed(logits.shape[1])
        if allowed is not None:
            row = logits[number[id(prompts[place])]].float()[None]
            bound = torch.log_softmax(only_allowed(row, [0], [allowed[:1]]), dim=-1)
            values[place] = float(bound[0, tokens[place]])
    return values


def _later_tokens(
    model: Any, hidden_states: Sequence[Tensor], completions: Sequence[Completion]
) -> list[float]:
    """Log-probabilities, summed, of the tokens that each suffix's hidden states predict."""
    states = torch.cat(list(hidden_states))
    targets = [completion.tokens[1:] for completion in completions]
    tokens = torch.tensor([token for ids in targets for token in ids], device=states.device)
    # Of each token, its completion and its place in that.
    places = [(c, place) for c in completions for place in range(1, len(c.tokens))]
    values = []
    for begin, part, target in zip(
        range(0, len(places), _LOGITS_AT_ONCE),
        states.split(_LOGITS_AT_ONCE),
        tokens.split(_LOGITS_AT_ONCE),
        strict=True,
    ):
        logits = compute_logits(model, part).float()
        logits = _bound(logits, places[begin : begin + len(part)])
        values.append(logits.gather(1, target[:, None])[:, 0] - logits.logsumexp(dim=-1))
    owners = torch.tensor(
        [owner for owner, ids in enumerate(targets) for _ in ids], device=states.device
    )
    sums = torch.zeros(len(targets), device=states.device).index_add(0, owners, torch.cat(values))
    return [float(value) for value in sums.tolist()]


def _bound(logits: Tensor, places: Sequence[tuple[Completion, int]]) -> Tensor:
    """Logits of what each completion's grammar allows in a place."""
    rows = [row for row, (completion, _) in enumerate(places) if completion.grammar is not None]
    different = dict.fromkeys(places[row][0] for row in rows)
    masks = {completion: completion.allowed(logits.shape[1]) for completion in different}
    allowed = []
    for row in rows:
        completion, place = places[row]
        mask = masks[completion]
        assert mask is not None
        allowed.append(mask[place][None])
    return only_allowed(logits, rows, allowed)
