"""Logits under constraints: log-probabilities among the tokens that were allowed.

A token that was the only one allowed has a log-probability of exactly 0, and no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .transfers import to_device


def only_allowed(logits: Tensor, rows: Sequence[int], allowed: Sequence[Tensor]) -> Tensor:
    """Logits that are minus infinity where a token was not allowed.

    Args:
        logits: shape (rows, vocabulary).
        rows: those that are under a constraint; the others stay as they are, to the bit.
        allowed: their masks, in order, each of shape (some of these rows, vocabulary).
    """
    if not rows:
        return logits
    at = to_device(rows, logits.device, torch.long)
    mask = to_device(torch.cat(list(allowed)), logits.device)
    return logits.index_copy(0, at, logits[at].masked_fill(~mask, -torch.inf))
