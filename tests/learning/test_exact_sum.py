"""Sums of gradients do not depend on their order, nor on who has summed which."""

from __future__ import annotations

import random

import torch

from flowtune_cli.learning.exact_sum import ExactSum


def vectors(count: int) -> list[torch.Tensor]:
    """Figures of very unlike sizes, many of which cancel."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for number in range(count):
        sizes = 10.0 ** torch.randint(-12, 4, (64,), generator=generator)
        vector = torch.randn(64, generator=generator) * sizes
        found += [vector, -vector * (1 if number % 2 else 0.5)]
    return found


def summed(parts: list[torch.Tensor]) -> torch.Tensor:
    total = ExactSum(64, torch.device("cpu"))
    for part in parts:
        total.add(part)
    return total.parts


def test_the_order_of_a_sum_does_not_matter() -> None:
    given = vectors(40)
    expected = summed(given)
    for seed in range(5):
        shuffled = random.Random(seed).sample(given, len(given))
        assert torch.equal(summed(shuffled), expected)
        # As processes share them out.
        cut = seed * 11 + 3
        assert torch.equal(summed(shuffled[:cut]) + summed(shuffled[cut:]), expected)
    plainly = sum(vector.double() for vector in random.Random(1).sample(given, len(given)))
    other = sum(vector.double() for vector in given)
    assert not torch.equal(torch.as_tensor(plainly), torch.as_tensor(other))


def test_a_sum_is_right() -> None:
    given = vectors(40)
    total = ExactSum(64, torch.device("cpu"))
    for vector in given:
        total.add(vector)
    expected = torch.stack(given).double().sum(0)
    torch.testing.assert_close(total.value().double(), expected, rtol=1e-6, atol=1e-12)


def test_what_cancels_is_nothing() -> None:
    vector = torch.randn(64, generator=torch.Generator().manual_seed(2))
    assert not summed([vector, 3 * vector, -vector, -3 * vector]).sum(0).any()


def test_a_single_vector_is_its_sum() -> None:
    vector = torch.randn(64, generator=torch.Generator().manual_seed(3)) * 1e-3
    total = ExactSum(64, torch.device("cpu"))
    total.add(vector)
    assert torch.equal(total.value(), vector)
