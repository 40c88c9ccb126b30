"""The plain path: a model's own forward and cache, for models that cannot share what is read.

Rows of one pass have one length, so nothing is padded or masked: what a model makes of a row cannot
depend on the rows beside it, whatever its layers keep of the past. A frozen prefix is read in the
same pass as what follows it (see ``adapter_mask``). ``proof`` holds the fast paths against this.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from .adapters import Adapters
from .constrained import only_allowed
from .packing import Ids
from .transfers import to_device

Allowed = Callable[[int], "Tensor | None"]
"""Which tokens of a vocabulary of this size were allowed in the place of each token that counts,
shape (tokens, vocabulary); None if all were."""

Choose = Callable[[Tensor], tuple[Tensor, list[int]]]
"""Given the logits of the running rows, which of these go on, after their next tokens."""


def decode(
    adapters: Adapters,
    adapter: str | None,
    rows: Sequence[Ids],
    frozen_length: int,
    max_new_tokens: int,
    choose: Choose,
    *,
    cache: bool = True,
) -> None:
    """Decode rows of one length by transformers' ``generate``, which drives the model's own cache.

    Args:
        rows: their prompts.
        frozen_length: how many of their tokens the base model reads.
        choose: gets logits of shape (running rows, vocabulary), float32.
        cache: whether the past is kept; else each token is decoded by reading all before it.
    """
    model = adapters.model
    ids = torch.tensor(rows, device=model.device)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, use_cache=cache, pad_token_id=0
    )
    driver = _Driver(choose, len(rows))
    with adapters.using(adapter, frozen_length), _own_generation_config(model, config):
        model.generate(
            ids,
            generation_config=config,
            attention_mask=torch.ones_like(ids),
            logits_processor=LogitsProcessorList([driver]),
            stopping_criteria=StoppingCriteriaList([_Ended(driver)]),
        )


class _Driver(LogitsProcessor):
    """Leaves each row one token, the one that is chosen."""

    def __init__(self, choose: Choose, rows: int) -> None:
        self.choose = choose
        self.running = list(range(rows))

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        tokens = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
        if self.running:
            # What rows that have ended are given is of no account.
            chosen, going_on = self.choose(scores[to_device(self.running, scores.device)])
            self.running = [self.running[i] for i in going_on]
            tokens[to_device(self.running, scores.device, torch.long)] = chosen
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


class _Ended(StoppingCriteria):
    """Ends all rows when none goes on."""

    def __init__(self, driver: _Driver) -> None:
        self.driver = driver

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.full((len(ids),), not self.driver.running, device=ids.device)


@contextmanager
def _own_generation_config(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Keep ``generate`` from filling in what the model's files ask for, such as a penalty."""
    before = model.generation_config
    model.generation_config = config
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        model.generation_config = before


def sequence_logprobs(
    adapters: Adapters,
    adapter: str | None,
    rows: Sequence[Ids],
    frozen_length: int,
    counts: Sequence[int],
    allowed: Sequence[Allowed] = (),
) -> Tensor:
    """Sum of log-probabilities, in nats, of the last tokens of rows of one length.

    Args:
        frozen_length: how many of their tokens the base model reads.
        counts: for each row, how many of its last tokens count: one at least.
        allowed: for each row, which tokens were allowed in the place of those; none if any were.

    Returns:
        Shape (rows,), float32; with gradients where they are enabled.
    """
    values = token_logprobs(adapters, adapter, rows, frozen_length, max(counts), allowed)
    places = torch.arange(values.shape[1], device=values.device) - values.shape[1]
    counted = places >= -torch.tensor(counts, device=values.device)[:, None]
    # Not a product: a token that does not count may be impossible, and infinity times 0 is NaN.
    return values.masked_fill(~counted, 0.0).sum(dim=1)


def token_logprobs(
    adapters: Adapters,
    adapter: str | None,
    rows: Sequence[Ids],
    frozen_length: int,
    count: int,
    allowed: Sequence[Allowed] = (),
) -> Tensor:
    """Log-probabilities, in nats, of each of the last ``count`` tokens of rows of one length.

    Args:
        allowed: see ``sequence_logprobs``.

    Returns:
        Shape (rows, count), float32; with gradients where they are enabled.
    """
    ids = torch.tensor(rows, device=adapters.model.device)
    with adapters.using(adapter, frozen_length) as model:
        logits = last_logits(model, ids[:, :-1], count)
    logits = logits.float()
    if allowed:
        logits = _bound(logits, allowed)
    return logits.log_softmax(-1).gather(2, ids[:, -count:, None])[..., 0]


def _bound(logits: Tensor, allowed: Sequence[Allowed]) -> Tensor:
    """Logits of shape (rows, tokens, vocabulary), of what was allowed alone."""
    rows: list[int] = []
    masks: list[Tensor] = []
    count, vocabulary = logits.shape[1:]
    for row, of_row in enumerate(allowed):
        mask = of_row(vocabulary)
        if mask is not None:
            rows += range((row + 1) * count - len(mask), (row + 1) * count)
            masks.append(mask)
    return only_allowed(logits.flatten(0, 1), rows, masks).view_as(logits)


def last_logits(model: Any, ids: Tensor, count: int, past: Mapping[str, Any] = {}) -> Tensor:
    """Logits of the last ``count`` tokens of each row, shape (rows, count, vocabulary)."""
    options: dict[str, Any] = {"use_cache": bool(past), **past}
    if "logits_to_keep" in signature(type(model).forward).parameters:
        # Those of all tokens could take gigabytes.
        options["logits_to_keep"] = count
    logits: Tensor = model(input_ids=ids, **options).logits
    return logits[:, -count:]


def equal_rows(rows: Sequence[tuple[Ids, int]], budget: int) -> Iterator[list[int]]:
    """Split rows into passes of one length and one frozen length.

    Args:
        rows: the tokens of each, and how many of them the base model reads.
        budget: the most tokens in one pass; a row that is longer goes alone.

    Yields:
        The rows' indices, pass by pass.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (ids, frozen_length) in enumerate(rows):
        groups.setdefault((len(ids), frozen_length), []).append(index)
    for (length, _), members in groups.items():
        most = max(budget // length, 1)
        for begin in range(0, len(members), most):
            yield members[begin : begin + most]
