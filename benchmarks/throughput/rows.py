"""Diverse decoding for ``transformers.generate``, which has no group beams of its own any more.

The rows of a batch are the outputs of one prompt; a logits processor takes the penalty from what
each row may choose, and a stopping criterion says which rows have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from flowtune_cli.flow.request import DecodeRequest, Generation
from flowtune_cli.models.tokens import Tokens


@dataclass
class Rows:
    """The outputs of one prompt in the making: a row each, the greedy one first."""

    request: DecodeRequest
    prompt: int
    tokens: Tokens
    ends: Sequence[int]

    def __post_init__(self) -> None:
        self.logprobs = [0.0] * self.request.decoding.groups
        self.lengths = [0] * self.request.decoding.groups

    def has_ended(self, tokens: Sequence[int]) -> bool:
        stops = self.request.stop
        if tokens[-1] in self.ends or not stops:
            return tokens[-1] in self.ends
        text = self.tokens.decode(list(tokens))
        return any(stop in text for stop in stops)

    def generations(self, found: Sequence[Sequence[int]]) -> tuple[Generation, ...]:
        generations = []
        for row, length, logprob in zip(found, self.lengths, self.logprobs, strict=True):
            tokens = tuple(row[:length] if length else row)
            shown = tokens[:-1] if tokens[-1] in self.ends else tokens
            text = self.tokens.decode(shown)
            if tokens[-1] not in self.ends:
                places = [p for stop in self.request.stop if (p := text.find(stop)) >= 0]
                text = text[: min(places)] if places else text
            generations.append(Generation(text, tokens, logprob, truncated=not length))
        return tuple(generations)


@dataclass
class Diverse(LogitsProcessor):
    """Each row pays for the tokens that rows above it, still unended, choose at this position."""

    rows: Rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logprobs = scores.float().log_softmax(-1)
        paid = logprobs.clone()
        chosen: list[int] = []
        for row, length in enumerate(self.rows.lengths):
            if length:
                continue
            for token in chosen:
                paid[row, token] -= self.rows.request.decoding.diversity_penalty
            chosen.append(int(paid[row].argmax()))
            self.rows.logprobs[row] += float(logprobs[row, chosen[-1]])
        return paid


@dataclass
class Ends(StoppingCriteria):
    """Which rows have ended, by an end token or a stop text."""

    rows: Rows

    def __call__(self, input_ids: Tensor, scores: Any, **more: Any) -> Tensor:
        written = input_ids[:, self.rows.prompt :].tolist()
        for row, tokens in enumerate(written):
            if not self.rows.lengths[row] and self.rows.has_ended(tokens):
                self.rows.lengths[row] = len(tokens)
        return torch.tensor([length > 0 for length in self.rows.lengths], device=input_ids.device)
