"""The losses against numbers computed by hand, closed forms and finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from flowtune_cli.learning.losses import choice_loss, dpo_loss, text_loss


def doubles(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]


def dpo(scores: list[torch.Tensor], beta: float) -> torch.Tensor:
    chosen, rejected, held_chosen, held_rejected = scores
    return dpo_loss(chosen, rejected, held_chosen, held_rejected, beta)


@pytest.mark.parametrize(
    ("chosen", "rejected", "held_chosen", "held_rejected", "beta", "loss"),
    [
        # Nothing was learned yet: -log sigmoid(0) = log 2.
        (-5.0, -3.0, -5.0, -3.0, 1.0, math.log(2)),
        # The chosen one gained 1 and the rejected one lost 2: -log sigmoid(3).
        (-4.0, -5.0, -5.0, -3.0, 1.0, math.log(1 + math.exp(-3))),
        (-4.0, -5.0, -5.0, -3.0, 0.1, math.log(1 + math.exp(-0.3))),
        # The wrong way round.
        (-5.0, -3.0, -4.0, -5.0, 2.0, math.log(1 + math.exp(6))),
        # Far off, where exp overflows.
        (-900.0, 0.0, 0.0, -900.0, 1.0, 1800.0),
    ],
)
def test_dpo_by_hand(
    chosen: float,
    rejected: float,
    held_chosen: float,
    held_rejected: float,
    beta: float,
    loss: float,
) -> None:
    scores = [torch.tensor(x) for x in (chosen, rejected, held_chosen, held_rejected)]
    assert dpo(scores, beta).item() == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
def test_the_gradient_of_dpo_is_that_of_the_closed_form(beta: float) -> None:
    scores = doubles(-4.2, -5.1, -4.9, -3.7)
    dpo(scores, beta).backward()
    margin = beta * ((-4.2 + 4.9) - (-5.1 + 3.7))
    slope = -beta / (1 + math.exp(margin))  # -beta * sigmoid(-margin)
    assert scores[0].grad is not None
    assert scores[1].grad is not None
    assert scores[0].grad.item() == pytest.approx(slope)
    assert scores[1].grad.item() == pytest.approx(-slope)


def test_gradients_are_those_of_finite_differences() -> None:
    scores = doubles(-4.2, -5.1, -4.9, -3.7)
    assert torch.autograd.gradcheck(lambda *s: dpo(list(s), 0.7), scores)
    options = torch.tensor([0.3, -2.0, 1.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: choice_loss(s, 1), options)
    assert torch.autograd.gradcheck(lambda s: text_loss(s, 7), scores[0])


def test_many_pairs_have_a_loss_each() -> None:
    chosen, zeros = torch.tensor([1.0, -1.0]), torch.zeros(2)
    losses = dpo_loss(chosen, zeros, zeros, zeros, beta=1.0)
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(-1)), math.log1p(math.exp(1))])


def test_a_choice_by_hand() -> None:
    scores = torch.tensor([2.0, 0.0, -1.0])
    total = math.exp(2) + 1 + math.exp(-1)
    for right, score in enumerate(scores.tolist()):
        assert choice_loss(scores, right).item() == pytest.approx(math.log(total) - score)
    # What all options have in common does not matter.
    assert choice_loss(scores + 50, 0).item() == pytest.approx(math.log(total) - 2, abs=1e-5)


def test_a_text_costs_its_mean_over_tokens() -> None:
    assert text_loss(torch.tensor(-12.0), 4).item() == 3.0
