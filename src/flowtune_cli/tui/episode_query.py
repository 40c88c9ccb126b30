"""The query behind the list of episodes: filter, order and text, run in a background thread.

All episodes, newest first, need no query, so the list opens at once in any run.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..runs.reader import RunReader
from ..runs.records import Filter, Order

ALL = Filter()
NEWEST_FIRST = Order(descending=True)
_REPORT_SECONDS = 0.1
"""Between two reports of a search, since each redraws the screen."""


@dataclass(frozen=True)
class EpisodeQuery:
    """Which episodes to list, in which order."""

    where: Filter = ALL
    order: Order = NEWEST_FIRST
    text: str = ""

    @property
    def is_default(self) -> bool:
        return self == EpisodeQuery()

    def describe(self) -> str:
        """The filter and the text in words."""
        where = self.where
        parts = [
            where.node and f"node {where.node}",
            where.outcome and f"a rollout {where.outcome.value}",
        ]
        for yes, no, value in (
            ("failed", "not failed", where.failed),
            ("with a preference", "without a preference", where.preference),
            ("truncated", "not truncated", where.truncated),
        ):
            parts.append(None if value is None else yes if value else no)
        if self.text:
            parts.append(f"contains “{self.text}”")
        return ", ".join(part for part in parts if part) or "all"


@dataclass
class QueryResult:
    """The result of a query so far.

    Args:
        numbers: the matching episodes, sorted.
        searched: how many of the ``total`` candidates were searched; equal at the end.
        end: all episodes below this number were considered; a later query continues here.
    """

    numbers: array[int]
    searched: int
    total: int
    end: int


def run_query(
    store: Path,
    query: EpisodeQuery,
    previous: QueryResult | None,
    report: Callable[[QueryResult], bool],
) -> None:
    """Run a query, in any thread.

    Args:
        previous: the last result of the same query: only newer episodes are searched.
        report: is called with the result so far, from time to time; False cancels the query.
    """
    with RunReader(store) as reader:
        numbers = reader.numbers(query.where, query.order)
        end = max(numbers, default=-1) + 1
        if not query.text:
            report(QueryResult(numbers, len(numbers), len(numbers), end))
            return
        matches = set(previous.numbers) if previous is not None else set()
        start = previous.end if previous is not None else 0
        candidates = array("q", (number for number in numbers if number >= start))
        kept = array("q", (number for number in numbers if number in matches))
        result = QueryResult(kept, 0, len(candidates), end)
        last_report = 0.0
        if not matches:
            for progress in reader.search(query.text, candidates):
                result.numbers.extend(progress.matches)
                result.searched = progress.searched
                now = time.monotonic()
                if now - last_report < _REPORT_SECONDS:
                    continue
                last_report = now
                if not report(replace(result, numbers=array("q", result.numbers))):
                    return
        else:
            for progress in reader.search(query.text, candidates):
                matches.update(progress.matches)
            result.numbers = array("q", (number for number in numbers if number in matches))
        result.searched = result.total
        report(result)
