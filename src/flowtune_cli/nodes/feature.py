"""Feature: a number that scores a candidate without a language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Feature:
    """A number about a candidate, such as how many words it shares with a question.

    It is multiplied by a parameter of the node's head, which is learned beside the adapter.

    Args:
        name: of the feature and its parameter.
        function: computes it from the call's inputs and ``candidate`` alone, so that a replay
            gets the same. Values should be of the order of one.
        weight: the parameter's initial value, in nats per unit of the feature.
    """

    name: str
    function: Callable[[Mapping[str, Any]], float]
    weight: float = 0.0
