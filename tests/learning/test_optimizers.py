"""The optimizers step as their papers say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from flowtune_cli.learning.optimizers import adam, adam8bit, cocob


def cocob_by_the_paper(
    start: np.ndarray, gradients: np.ndarray, alpha: float, eps: float
) -> np.ndarray:
    """COCOB-Backprop (Orabona and Tommasi 2017, algorithm 2), for each coordinate by itself.

    Returns:
        The weights after each step, shape (steps, coordinates).
    """
    weights, path = start.copy(), []
    largest = np.full_like(start, eps)  # L; the paper has 0 and divides by it
    absolute = np.zeros_like(start)  # G
    reward = np.zeros_like(start)
    theta = np.zeros_like(start)
    for negative in -gradients:
        largest = np.maximum(largest, abs(negative))
        absolute += abs(negative)
        reward = np.maximum(reward + (weights - start) * negative, 0)
        theta += negative
        bet = theta / (largest * np.maximum(absolute + largest, alpha * largest))
        weights = start + bet * (largest + reward)
        path.append(weights)
    return np.array(path)


@pytest.mark.parametrize("alpha", [1.0, 10.0, 1000.0])
def test_cocob_is_that_of_the_paper(alpha: float) -> None:
    random = np.random.default_rng(0)
    # Coordinates of different sizes, one of which never moves and one always the same way.
    gradients = random.normal(size=(40, 6)) * [1, 0.01, 100, 0, 1, 1]
    gradients[:, 5] = 0.3
    start = random.normal(size=6)
    expected = cocob_by_the_paper(start, gradients, alpha, 1e-8)
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimizer = cocob([parameter], alpha=alpha)
    for gradient, weights in zip(gradients, expected, strict=True):
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        np.testing.assert_allclose(parameter.detach().numpy(), weights, rtol=1e-9, atol=1e-12)
    assert (expected[-1] != start).tolist() == [True, True, True, False, True, True]


def test_a_first_step_of_cocob_is_one_alphath_whatever_the_gradient() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = cocob([parameter], alpha=1000)
    parameter.grad = torch.tensor([1e-4, -7.0, 0.0])
    optimizer.step()
    assert parameter.tolist() == pytest.approx([-1e-3, 1e-3, 0.0], rel=1e-3)


def test_adam_is_that_of_the_paper() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    optimizer = adam([parameter], lr=0.1, betas=(0.8, 0.9), eps=1e-6)
    weights, first, second = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)
    for step, gradient in enumerate(np.random.default_rng(0).normal(size=(5, 2)), 1):
        first = 0.8 * first + 0.2 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        direction = first / (1 - 0.8**step) / (np.sqrt(second / (1 - 0.9**step)) + 1e-6)
        weights = weights - 0.1 * direction
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        np.testing.assert_allclose(parameter.detach().numpy(), weights, rtol=1e-9)


def test_adam_in_8_bits_is_about_adam_with_moments_of_a_byte() -> None:
    generator = torch.Generator().manual_seed(0)
    both = [torch.nn.Parameter(torch.zeros(64, 128)) for _ in range(2)]
    optimizers = [adam([both[0]], lr=0.1), adam8bit([both[1]], lr=0.1)]
    for _ in range(3):
        gradient = torch.randn(64, 128, generator=generator)
        for parameter, optimizer in zip(both, optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    assert float((both[0] - both[1]).detach().abs().mean()) < 0.01
    assert optimizers[1].state[both[1]]["state1"].dtype == torch.uint8


def test_they_can_be_listed_without_torch() -> None:
    code = "import sys; from flowtune_cli.learning import optimizers; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "flowtune_cli.learning.optimizers" in done.stdout.split()
    assert not {"torch", "parameterfree", "bitsandbytes"} & set(done.stdout.split())
