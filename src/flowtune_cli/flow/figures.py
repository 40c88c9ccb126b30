"""The figures that ``Task.evaluate`` returns, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

INTERVALS = "intervals"


def each_figure(
    figures: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Sequence[float] | None]]:
    """Name, value, and interval if there is one; the name of a group is a prefix: "group.name"."""
    intervals = figures.get(INTERVALS, {})
    for name, value in figures.items():
        if name == INTERVALS:
            continue
        if isinstance(value, Mapping):
            yield from each_figure(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value, intervals.get(name)
