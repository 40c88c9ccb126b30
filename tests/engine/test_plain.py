"""The plain path's log-likelihoods; the rest is tested by architectures and by the proof."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flowtune_cli.engine import plain
from flowtune_cli.models.loading import LoadedModel
from support.tiny import logits, make_adapters

IMPOSSIBLE = 9


def test_a_token_that_does_not_count_may_be_impossible(
    tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some models give tokens that they never write a logit of minus infinity."""
    adapters = make_adapters(tiny_model)
    last_logits = plain.last_logits

    def masked(found: Tensor) -> Tensor:
        found[..., IMPOSSIBLE] = -torch.inf
        return found

    def expected(row: tuple[int, ...], count: int) -> float:
        logprobs = masked(logits(adapters, "a", row).detach()).log_softmax(-1)
        places = range(len(row) - count - 1, len(row) - 1)
        return sum(float(logprobs[place, row[place + 1]]) for place in places)

    def last(*arguments: Any) -> Tensor:
        return masked(last_logits(*arguments))

    monkeypatch.setattr(plain, "last_logits", last)
    rows, counts = [(1, 2, 3, IMPOSSIBLE, 5), (1, 2, 6, 7, 8)], [1, 3]
    with torch.no_grad():
        found = plain.sequence_logprobs(adapters, "a", rows, 0, counts)
    assert found.tolist() == pytest.approx(
        [expected(row, count) for row, count in zip(rows, counts, strict=True)], abs=1e-3
    )
