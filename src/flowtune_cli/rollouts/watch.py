"""Watches that servers decode with the weights that are meant.

A server tells the log-probability of each token that it decoded. It is held against those that
torch finds for the same tokens under the adapter's present state, under the state before its last
update, and under the base model: of a server that mixes them up, another than the first is nearest.
And if even the nearest is far, the server has another base model, dtype or quantisation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..engine.adapters import Adapters, reference_of
from ..engine.packing import Ids
from ..engine.plain import token_logprobs
from ..flow.errors import FlowtuneError

BOUND = {"float32": 5e-3, "float16": 0.05, "bfloat16": 0.15}
"""The largest mean difference, in nats a token, that rounding explains, by the model's dtype."""
ENOUGH = 16
"""Tokens from which a mean is judged."""
_DEVIATIONS = 4.0
"""By how many standard errors another state has to be nearer."""
_EVERY = 16
"""Outputs of each adapter on each server are looked at until there are enough tokens to judge by,
and then one in so many."""
_LONGEST = 128
"""Of a long output, so many tokens are looked at."""


class Seen(NamedTuple):
    """Tokens with the log-probabilities that a server told.

    Args:
        before: the tokens before them.
    """

    before: Ids
    tokens: Ids
    logprobs: Sequence[float]
    server: str


@dataclass
class Gap:
    """Mean absolute differences of log-probabilities a token: a server's from torch's.

    Args:
        present, previous, base: torch's under the present adapter, under the one before its last
            update, and under the base model; NaN where there is none.
    """

    tokens: int
    present: float
    previous: float
    base: float

    @property
    def text(self) -> str:
        """For errors and notes."""
        return (
            f"{self.present:.2g} nats a token from the present adapter, {self.previous:.2g} from"
            f" the one before its last update, {self.base:.2g} from the base model"
            f" ({self.tokens} tokens)"
        )


@dataclass
class _Distances:
    """Of each token that was looked at: how far the server's value is from torch's."""

    present: list[float] = field(default_factory=list)
    previous: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)

    @property
    def gap(self) -> Gap:
        def mean(values: Sequence[float]) -> float:
            return sum(values) / len(values) if values else math.nan

        count = len(self.present)
        return Gap(count, mean(self.present), mean(self.previous), mean(self.base))


class Watch:
    """Looks at some of what servers decode.

    Args:
        adapters: those that servers are meant to hold.
    """

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters
        self._bound = BOUND[str(adapters.model.dtype).removeprefix("torch.")]
        # By node and server.
        self._versions: dict[tuple[str | None, str], int] = {}
        self._counts: dict[tuple[str | None, str], int] = {}
        self._distances: dict[tuple[str | None, str], _Distances] = {}

    def wants(self, node: str | None, server: str) -> bool:
        """Whether the next output of a node on a server is to be looked at."""
        key = node, server
        version = self._adapters.version(node)
        if self._versions.get(key) != version:
            self._versions[key] = version
            self._counts[key] = 0
            if self._tokens(key) >= ENOUGH:
                # Fewer are judged together with those of the next version.
                del self._distances[key]
        self._counts[key] += 1
        return self._tokens(key) < 2 * ENOUGH or self._counts[key] % _EVERY == 0

    def _tokens(self, key: tuple[str | None, str]) -> int:
        return len(self._distances[key].present) if key in self._distances else 0

    def see(self, node: str | None, seen: Seen, previous: Mapping[str, Tensor] | None) -> None:
        """Compare tokens with torch.

        Args:
            previous: the adapter's weights before its last update; if None, those of its reference,
                which is an earlier one, too.

        Raises:
            FlowtuneError: the server does not decode with the weights that are meant.
        """
        told = list(seen.logprobs[:_LONGEST])
        row = (*seen.before, *seen.tokens[: len(told)])

        def off(adapter: str | None) -> list[float]:
            values = self._logprobs(adapter, row, len(told))
            return [abs(a - b) for a, b in zip(told, values, strict=True)]

        found = self._distances.setdefault((node, seen.server), _Distances())
        found.present += off(node)
        if node is None:
            self._judge(node, seen.server, found)
            return
        found.base += off(None)
        if previous is None:
            found.previous += off(reference_of(node))
        else:
            with self._as_it_was(node, previous):
                found.previous += off(node)
        self._judge(node, seen.server, found)

    def gaps(self) -> dict[str, Gap]:
        """What was seen of each node's present adapter, over all servers."""
        found: dict[str, _Distances] = {}
        for (node, _), each in self._distances.items():
            if node is None:
                continue
            of_node = found.setdefault(node, _Distances())
            of_node.present += each.present
            of_node.previous += each.previous
            of_node.base += each.base
        return {node: distances.gap for node, distances in found.items()}

    @torch.inference_mode()
    def _logprobs(self, adapter: str | None, row: Ids, count: int) -> list[float]:
        values: list[float] = token_logprobs(self._adapters, adapter, [row], 0, count)[0].tolist()
        return values

    @contextmanager
    def _as_it_was(self, node: str, weights: Mapping[str, Tensor]) -> Iterator[None]:
        present = self._adapters.state(node)
        self._adapters.set_state(node, weights)
        try:
            yield
        finally:
            self._adapters.set_state(node, present)

    def _judge(self, node: str | None, server: str, found: _Distances) -> None:
        if len(found.present) < ENOUGH:
            return
        gap = found.gap
        if node is None:
            if not gap.present <= self._bound:
                raise FlowtuneError(
                    f"{server} computes another base model than this one: its log-probabilities are"
                    f" {gap.present:.2g} nats a token from torch's, where rounding explains"
                    f" {self._bound:g}. Serve the same model and revision, with --dtype"
                    f" {str(self._adapters.model.dtype).removeprefix('torch.')}, not quantised, and"
                    " with --logprobs-mode raw_logprobs"
                )
            return
        others = [
            (gap.previous, "the adapter before its last update", found.previous),
            (gap.base, "the base model", found.base),
        ]
        _, name, nearest = min(others)
        if _nearer(nearest, found.present, self._bound):
            raise FlowtuneError(
                f"{server} does not decode by the adapter of node '{node}' (version"
                f" {self._adapters.version(node)}): nearest is {name}. Its log-probabilities are"
                f" {gap.text}. Nothing was learned from these outputs. Restart the server; if this"
                " comes again, start it with --no-enable-prefix-caching, or set"
                " engine.rollouts = 'local'"
            )
        if not gap.present <= self._bound:
            raise FlowtuneError(
                f"{server} decodes node '{node}' otherwise than torch: its log-probabilities are"
                f" {gap.text}, where rounding explains {self._bound:g}. Serve the same base model"
                " and dtype, not quantised, and with --logprobs-mode raw_logprobs"
            )


def _nearer(other: Sequence[float], present: Sequence[float], bound: float) -> bool:
    """Whether values lie nearer to the other than to the present, beyond noise."""
    gains = [p - o for p, o in zip(present, other, strict=True)]
    mean = sum(gains) / len(gains)
    if not mean > bound / 50:  # rounding, which differs from one to the other
        return False
    if sum(present) / len(present) > bound:
        return True
    variance = sum((gain - mean) ** 2 for gain in gains) / (len(gains) - 1)
    return mean > _DEVIATIONS * math.sqrt(variance / len(gains))
