"""Measure: what a Rank can tell of a candidate without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """A figure of a candidate, such as how many words it shares with a question.

    Its weight is learned beside the node's adapter. It should be of the size of one.

    Args:
        name: by which a person sees it.
        of: computes it from the call's inputs and ``candidate`` alone, so that it is the same when
            the flow is replayed.
        weight: where learning starts, in nats for each unit of the measure.
    """

    name: str
    of: Callable[[Mapping[str, Any]], float]
    weight: float = 0.0
