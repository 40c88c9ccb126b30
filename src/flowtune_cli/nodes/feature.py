"""Feature: a number that scores a candidate without a language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..flow.numbers import real_number


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

    def value(self, inputs: Mapping[str, Any]) -> float:
        """The number for one candidate.

        Raises:
            ValueError: the function returned no finite number.
        """
        try:
            return real_number(self.function(inputs))
        except ValueError as error:
            candidate = str(inputs.get("candidate"))[:60]
            raise ValueError(f"feature '{self.name}' of {candidate!r} {error}") from None
