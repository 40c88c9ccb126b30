"""What the ways to run a model are compared by: see ``proof``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .likelihoods import Completion
from .packing import Ids

NEW_TOKENS = 6
"""Tokens that are decoded after each prompt."""


def completions_to_compare(
    model: Any, context: int, texts: Sequence[Ids], *, few: bool
) -> tuple[list[Completion], list[Completion]]:
    """Completions to compare, and some after a frozen prefix: what begins alike and what does not,
    texts shorter and longer than the windows."""
    shared, *others = random_texts(vocabulary(model), [20, 5, 11, 7, 3, 1, 3, 6, 6])
    beginnings = [shared, *(ids[:30] for ids in texts)]
    cases = []
    for beginning in beginnings[-1:] if few and texts else beginnings:
        tails = ((0, 5), (1, 6), (1, 7), (3, 4))
        for tail, tokens in tails[:2] if few else tails:
            cases.append(Completion((*beginning, *others[tail]), 0, others[tokens]))
        # A prompt that another one continues.
        cases.append(Completion((*beginning, *others[0], *others[3]), 0, others[5]))
    if not few or not texts:
        cases.append(Completion(others[2], 0, others[6]))
    most = context - NEW_TOKENS
    cases = [case for case in cases if len(case.prompt) <= most] or cases[-1:]
    length = len(beginnings[-1]) if few and texts else len(shared)
    frozen = [case._replace(frozen_length=length) for case in cases[:3]]
    frozen.append(Completion(cases[0].prompt[:length], length, others[6]))
    return cases, frozen


def vocabulary(model: Any) -> int:
    """How many tokens a model has embeddings for."""
    return int(model.get_input_embeddings().weight.shape[0])


def random_texts(vocabulary: int, lengths: Sequence[int]) -> list[tuple[int, ...]]:
    """Token ids drawn at random, always the same."""
    generator = torch.Generator().manual_seed(0)
    return [
        tuple(torch.randint(vocabulary, (length,), generator=generator).tolist())
        for length in lengths
    ]
