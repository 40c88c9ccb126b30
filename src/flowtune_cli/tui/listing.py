"""Which episodes a list shows: all of them, or those that a filter, an order and a search leave.

All of them, the newest first, needs no list of numbers and so opens at once in any run.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..runs.reader import RunReader
from ..runs.stored import Filter, Order

EVERY = Filter()
NEWEST = Order(descending=True)
_EVERY = 0.1
"""Seconds from one report of a search to the next: each makes the screen draw anew."""


@dataclass(frozen=True)
class Wanted:
    """What the list is asked for."""

    where: Filter = EVERY
    order: Order = NEWEST
    text: str = ""

    @property
    def everything(self) -> bool:
        return self == Wanted()

    def describe(self) -> str:
        """In words: what is left out, and the order."""
        where = self.where
        parts = [
            where.node and f"node {where.node}",
            where.outcome and f"a rollout {where.outcome.value}",
        ]
        for yes, no, value in (
            ("failed", "not failed", where.failed),
            ("with a preference", "without a preference", where.preference),
            ("cut off", "nothing cut off", where.truncated),
        ):
            parts.append(None if value is None else yes if value else no)
        if self.text:
            parts.append(f"holds “{self.text}”")
        return ", ".join(part for part in parts if part) or "all"


@dataclass
class Found:
    """What a query has found so far.

    Args:
        numbers: the episodes in the order wanted.
        searched: how many of the ``total`` candidates were searched; equal when it is done.
        upto: the episodes below this number were looked at, for a query that goes on later.
    """

    numbers: array[int]
    searched: int
    total: int
    upto: int


def query(
    store: Path,
    wanted: Wanted,
    before: Found | None,
    tell: Callable[[Found], bool],
) -> None:
    """Find what is wanted, in any thread.

    Args:
        before: what the same query found earlier: only episodes that came since are searched.
        tell: is given all that was found so far, from time to time; False ends the query.
    """
    with RunReader(store) as reader:
        numbers = reader.numbers(wanted.where, wanted.order)
        upto = max(numbers, default=-1) + 1
        if not wanted.text:
            tell(Found(numbers, len(numbers), len(numbers), upto))
            return
        old = set(before.numbers) if before is not None else set()
        since = before.upto if before is not None else 0
        fresh = array("q", (number for number in numbers if number >= since))
        found = Found(array("q", (n for n in numbers if n in old)), 0, len(fresh), upto)
        told = 0.0
        if not old:
            for step in reader.search(wanted.text, fresh):
                found.numbers.extend(step.found)
                found.searched = step.episodes
                now = time.monotonic()
                if now - told < _EVERY:
                    continue
                told = now
                if not tell(replace(found, numbers=array("q", found.numbers))):
                    return
        else:
            for step in reader.search(wanted.text, fresh):
                old.update(step.found)
            found.numbers = array("q", (number for number in numbers if number in old))
        found.searched = found.total
        tell(found)
