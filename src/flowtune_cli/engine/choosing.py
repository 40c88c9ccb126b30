"""Chooses the next tokens of all rows of a batch at once: greedy, diverse groups and samples.

Diverse beam search (Vijayakumar et al. 2016) with one beam a group: at each position group g picks
the token with the highest log-probability less ``penalty`` for each of the groups 0..g-1 of the
same prompt that picked that token at this position. Group 0 pays nothing, so it is greedy.

Samples invert the cumulative distribution, with temperature and nucleus (Holtzman et al. 2020,
arXiv:1904.09751), at a point that each sample's own generator draws on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..flow.request import Decoding
from .transfers import to_device


class Row(NamedTuple):
    """What the next token of a row depends on beside its logits.

    Args:
        prompt: the same for all rows of a request.
        number: among the request's outputs: the groups come first, then the samples.
        generator: of a sample; None for the others.
    """

    prompt: int
    number: int
    decoding: Decoding
    generator: torch.Generator | None


class _Group(NamedTuple):
    """A group of the diverse search: its rows, their prompts' numbers, and what others will pay."""

    rows: Tensor
    prompts: Tensor
    penalties: Tensor


class Chooser:
    """Chooses tokens for rows that stay the same.

    All that does not change from token to token lies on the device: a choice gives it nothing but
    the points that were drawn, and waits for nothing.
    """

    def __init__(self, rows: Sequence[Row], device: Any) -> None:
        self._device = device
        self._groups: list[_Group] = []
        self._add_groups(rows)
        self._prompts = len({row.prompt for row in rows})
        # At a temperature of 0 a sample is greedy, and draws nothing.
        sampled = [
            (place, row.decoding, row.generator)
            for place, row in enumerate(rows)
            if row.generator is not None and row.decoding.temperature > 0
        ]
        self._generators = [generator for _, _, generator in sampled]
        if not sampled:
            return
        self._sampled = to_device([place for place, _, _ in sampled], device)
        column = [[decoding.temperature] for _, decoding, _ in sampled]
        self._temperatures = to_device(column, device, torch.float32)
        self._top_p: Tensor | None = None
        if any(decoding.top_p < 1 for _, decoding, _ in sampled):
            # The sum of all probabilities may be a little more than 1.
            column = [[p if (p := decoding.top_p) < 1 else 2.0] for _, decoding, _ in sampled]
            self._top_p = to_device(column, device, torch.float32)

    def _add_groups(self, rows: Sequence[Row]) -> None:
        number = {prompt: n for n, prompt in enumerate(dict.fromkeys(row.prompt for row in rows))}
        groups: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            if row.number < row.decoding.groups and row.decoding.groups > 1:
                groups.setdefault(row.number, []).append(place)
        if not any(groups):
            return
        for _, places in sorted(groups.items()):
            penalties = [rows[place].decoding.diversity_penalty for place in places]
            self._groups.append(
                _Group(
                    to_device(places, self._device),
                    to_device([number[rows[place].prompt] for place in places], self._device),
                    to_device(penalties, self._device, torch.float32),
                )
            )

    def __call__(self, logprobs: Tensor) -> Tensor:
        """The next tokens, shape (rows,).

        Args:
            logprobs: shape (rows, vocabulary), float32.
        """
        chosen = logprobs.argmax(dim=-1)
        if self._groups:
            self._diversify(logprobs, chosen)
        if self._generators:
            # Drawn on the host, so that a sample is the same on every device.
            drawn = torch.cat([torch.rand(1, generator=each) for each in self._generators])
            points = to_device(drawn, self._device)
            tokens = sample(logprobs[self._sampled], self._temperatures, self._top_p, points)
            chosen.index_copy_(0, self._sampled, tokens)
        return chosen

    def _diversify(self, logprobs: Tensor, chosen: Tensor) -> None:
        """Let each group choose again, after the groups before it."""
        penalties = logprobs.new_zeros((self._prompts, logprobs.shape[1]))
        for place, (rows, prompts, penalty) in enumerate(self._groups):
            if place:
                chosen[rows] = (logprobs[rows] - penalties[prompts]).argmax(dim=-1)
            penalties[prompts, chosen[rows]] += penalty


def sample(logprobs: Tensor, temperatures: Tensor, top_p: Tensor | None, points: Tensor) -> Tensor:
    """One token a row by inverting the cumulative distribution.

    Args:
        logprobs: shape (rows, vocabulary).
        temperatures: above 0; shape (rows, 1).
        top_p: the tokens are the fewest with so much probability; shape (rows, 1). None if all.
        points: uniform, from 0 to below 1; shape (rows,).

    Returns:
        Token ids, shape (rows,).
    """
    probabilities = torch.softmax(logprobs / temperatures, dim=-1)
    if top_p is not None:
        ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
        inside = (_cumulative(ordered) - ordered) < top_p
        inside[:, 0] = True
        # In the order of the vocabulary, which does not depend on the last bit of a probability.
        kept = torch.zeros_like(inside).scatter(1, tokens, inside)
        probabilities = probabilities.masked_fill(~kept, 0.0)
    cumulative = _cumulative(probabilities)
    places = torch.searchsorted(cumulative, points[:, None] * cumulative[:, -1:], right=True)
    vocabulary = torch.arange(probabilities.shape[1], device=probabilities.device)
    last = torch.where(probabilities != 0, vocabulary, 0).amax(dim=-1)
    return torch.minimum(places[:, 0], last)


_UNIT = 2.0**52


def _cumulative(probabilities: Tensor) -> Tensor:
    """Sums of each row's probabilities up to each column, the same at each call."""
    if probabilities.device.type == "cpu":
        return probabilities.cumsum(dim=-1)
    return fixed_point_sums(probabilities)


def fixed_point_sums(probabilities: Tensor) -> Tensor:
    """Cumulative sums along rows that add to about 1, by whole numbers.

    On a GPU floats are added in an order that changes, and whole numbers give the same in any.
    """
    units = (probabilities.double() * _UNIT).long()
    return (units.cumsum(dim=-1).double() / _UNIT).to(probabilities.dtype)
