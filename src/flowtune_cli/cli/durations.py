"""Spans of time in words."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Such as "45 s", "12 min" or "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def age(seconds: float) -> str:
    """The largest unit alone, for a table: such as "45 s", "12 min", "3 h" or "20 days"."""
    for unit, size in (("day", 86400), ("h", 3600), ("min", 60)):
        count = int(seconds // size)
        if count:
            return f"{count} {unit}{'s' * (unit == 'day' and count > 1)}"
    return f"{max(int(seconds), 0)} s"
