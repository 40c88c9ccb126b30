"""The losses. All take and return float32 tensors; log-likelihoods are sums in nats."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, equation 7).

        -log sigmoid(beta * ((chosen - reference_chosen) - (rejected - reference_rejected)))

    Args:
        chosen, rejected: scores of the two outputs under the policy, shape (pairs,).
        reference_chosen, reference_rejected: the same under the reference.
        beta: how strongly the policy is regularised towards the reference.

    Returns:
        One loss a pair, shape (pairs,).
    """
    return -logsigmoid(beta * ((chosen - reference_chosen) - (rejected - reference_rejected)))


def choice_loss(scores: Tensor, right: int) -> Tensor:
    """Cross-entropy of one choice among options under a softmax over their scores.

    For a Judge's labels this is the usual classification loss; for candidates it is the listwise
    softmax loss of ranking (Cao et al. 2007, top one).

    Args:
        scores: shape (options,).
        right: index of the right option.
    """
    return cross_entropy(scores[None], torch.tensor([right], device=scores.device))


def text_loss(logprob: Tensor, tokens: int) -> Tensor:
    """Mean negative log-likelihood per token of a target text."""
    return -logprob / tokens
