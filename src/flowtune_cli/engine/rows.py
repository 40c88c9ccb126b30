"""The rows of a batch that is decoded: outputs in the making, and the choice of their tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..flow.request import Decoding, Generation
from .choosing import Chooser, Row
from .forward import check_finite
from .packing import Ids
from .transfers import to_device


@dataclass(frozen=True)
class TokenizedRequest:
    """A ``DecodeRequest`` as the decoder gets it.

    Args:
        prompt: its token ids.
        frozen_length: how many of them the base model reads, from the beginning.
    """

    prompt: Ids
    max_new_tokens: int
    stop: tuple[str, ...]
    decoding: Decoding
    seed: tuple[int | str, ...]
    frozen_length: int = 0

    @property
    def length(self) -> int:
        """Tokens of the prompt and of the longest output."""
        return len(self.prompt) + self.max_new_tokens


@dataclass
class Output:
    """An output in the making.

    Args:
        index: of its request.
        number: among the request's outputs: the groups come first, then the samples.
        generator: of a sample.
    """

    index: int
    number: int
    request: TokenizedRequest
    generator: torch.Generator | None
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    text: str | None = None
    truncated: bool = False

    @property
    def row(self) -> Row:
        """What its next token depends on."""
        return Row(self.index, self.number, self.request.decoding, self.generator)

    @property
    def generation(self) -> Generation:
        """What it is when it has ended."""
        assert self.text is not None
        return Generation(self.text, tuple(self.tokens), self.logprob, self.truncated)


def make_outputs(index: int, request: TokenizedRequest) -> list[Output]:
    """The outputs of a request, without tokens yet: the groups first, then the samples."""
    return [
        Output(index, number, request, _generator(request, number))
        for number in range(request.decoding.outputs)
    ]


def _generator(request: TokenizedRequest, number: int) -> torch.Generator | None:
    """A sample's own randomness: from the request's seed and the output's number alone."""
    if number < request.decoding.groups:
        return None
    digest = hashlib.sha256(repr((*request.seed, number)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class Rows:
    """The outputs that have not ended yet, a row each.

    Args:
        model: whose logits they choose by.
        maybe_end: gives an output its text if its last token ends it.
    """

    def __init__(self, model: Any, maybe_end: Callable[[Output], None]) -> None:
        self.model = model
        self.maybe_end = maybe_end
        self.outputs: list[Output] = []
        # None: the rows have changed.
        self._chooser: Chooser | None = None

    def add(self, outputs: Sequence[Output]) -> None:
        """Further rows, behind the others; all outputs of a request come together."""
        self.outputs = [*self.outputs, *outputs]
        self._chooser = None

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows; these are in ascending order."""
        self.outputs = [self.outputs[row] for row in rows]
        self._chooser = None

    def choose(self, logits: Tensor) -> tuple[Tensor, list[int]]:
        """Append each row's next token; those that end get their text, and leave.

        The device is waited for once, for all tokens and their log-probabilities.

        Args:
            logits: shape (rows, vocabulary).

        Returns:
            The tokens of the rows that go on, and which of these they were.
        """
        if self._chooser is None:
            self._chooser = Chooser([output.row for output in self.outputs], self.model.device)
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        chosen = self._chooser(logprobs)
        found = logprobs.gather(1, chosen[:, None])[:, 0]
        # Token ids are whole numbers, which are exact in float64.
        tokens, values = torch.stack([chosen.double(), found.double()]).tolist()
        check_finite(self.model, values)
        for output, token, value in zip(self.outputs, tokens, values, strict=True):
            output.tokens.append(int(token))
            output.logprob += value
            self.maybe_end(output)
        rows = [i for i, output in enumerate(self.outputs) if output.text is None]
        if len(rows) < len(self.outputs):
            self.keep(rows)
            chosen = chosen[to_device(rows, self.model.device, torch.long)]
        return chosen, rows
