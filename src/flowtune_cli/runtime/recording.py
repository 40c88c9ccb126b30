"""What a run of a flow leaves behind to be replayed: calls by key, and the order of delivery."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..flow.effect import Key
from ..flow.episode import Step
from ..flow.value_digest import NoDigest, value_digest


@dataclass(frozen=True)
class RecordedCall:
    """A call that was answered.

    Args:
        inputs: the digest of its inputs, which may hold more than is shown; None if there is none.
        issued_at: how many deliveries there had been when it was made.
    """

    step: Step
    inputs: str | None
    issued_at: int


@dataclass
class Recording:
    """The calls of a run, and which answers the flow got together, in order.

    ``cancelled``: calls that the flow made and cancelled before it had their answers.
    """

    calls: dict[Key, RecordedCall] = field(default_factory=dict)
    deliveries: list[tuple[Key, ...]] = field(default_factory=list)
    cancelled: set[Key] = field(default_factory=set)

    def key_of(self, step: int) -> Key:
        """The key of the step of that index."""
        return next(key for key, call in self.calls.items() if call.step.index == step)

    def until(self, key: Key) -> list[tuple[Key, ...]]:
        """The deliveries up to the one of that key."""
        last = next(n for n, keys in enumerate(self.deliveries) if key in keys)
        return self.deliveries[: last + 1]


class Keys:
    """Counts the calls of one run, which gives each its key."""

    def __init__(self) -> None:
        self._made: dict[Key, int] = {}

    def next(self, *parts: str) -> Key:
        """The key of the next call of these parts."""
        number = self._made.get(parts, 0)
        self._made[parts] = number + 1
        return (*parts, str(number))


def text_digest(text: str) -> str:
    """SHA-256 of what a call shows, in hex digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def inputs_digest(inputs: Mapping[str, Any]) -> str | None:
    """SHA-256 of a call's inputs; None where they have none, so that none are equal."""
    try:
        return value_digest(dict(inputs))
    except NoDigest:
        return None
