"""The order in which a run plays its examples."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ..flow.errors import UsageError
from ..flow.example import Example


def training_order(
    examples: Sequence[Example], seed: int, limit: int, passes: int
) -> list[Example]:
    """The examples in the order of training: shuffled by the seed, cut, and shuffled each pass.

    With a higher limit the first pass goes on; with more passes, they come after the others.

    Raises:
        UsageError: there are none, two have one id, or one has no gold.
    """
    if not examples:
        raise UsageError("there is nothing to train on: the data has no examples")
    seen: set[str] = set()
    for example in examples:
        if example.gold is None:
            raise UsageError(
                f"example '{example.id}' has no labels, so nothing can be learned from it."
                " Train on labelled data; unlabelled data can be predicted."
            )
        if example.id in seen:
            raise UsageError(f"two examples have the id '{example.id}'")
        seen.add(example.id)
    chosen = list(examples)
    random.Random(f"{seed}/order").shuffle(chosen)
    chosen = chosen[:limit] if limit else chosen
    order = list(chosen)
    for number in range(1, passes):
        again = list(chosen)
        random.Random(f"{seed}/order/{number}").shuffle(again)
        order += again
    return order
