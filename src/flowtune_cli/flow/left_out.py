"""What a task leaves out of its data or its figures, by reason: counts, and the first ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_MOST_IDS = 5


@dataclass
class LeftOut:
    """Counts by reason. Only the first ids are kept, so it stays small.

    Args:
        counts: how many were left out.
        ids: the first of them.
    """

    counts: dict[str, int] = field(default_factory=dict)
    ids: dict[str, list[str]] = field(default_factory=dict)

    def add(self, example_id: str, reason: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        first = self.ids.setdefault(reason, [])
        if len(first) < _MOST_IDS:
            first.append(example_id)

    def texts(self) -> list[str]:
        """A text for each reason: "left out 2 examples (no label): 'a', 'b'"."""
        return [
            f"left out {count:,} example{'' if count == 1 else 's'} ({reason}):"
            f" {listed(self.ids[reason], count)}"
            for reason, count in self.counts.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """By reason, the count and the first ids."""
        return {
            reason: {"count": count, "first_ids": list(self.ids[reason])}
            for reason, count in self.counts.items()
        }


def listed(ids: list[str], count: int | None = None) -> str:
    """The first ids, quoted, and how many more there are of ``count`` in all."""
    shown = ids[:_MOST_IDS]
    more = (len(ids) if count is None else count) - len(shown)
    return ", ".join(f"'{name}'" for name in shown) + (f" and {more:,} more" if more else "")
