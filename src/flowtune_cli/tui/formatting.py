"""Formats numbers and texts for the screens."""

from __future__ import annotations

from collections.abc import Sequence

from ..runs.serialization import visible

UNKNOWN = "–"
_BARS = "▁▂▃▄▅▆▇█"


def one_line(text: str) -> str:
    """The text on one line; a line break is shown as ⏎."""
    return visible(text.strip().replace("\r\n", "\n").replace("\n", "⏎").replace("\t", " "))


def number(value: float | None, digits: int = 3) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    return UNKNOWN if value is None else f"{value:+.{digits}f}"


def percent(part: float, whole: float) -> str:
    return UNKNOWN if not whole else f"{100 * part / whole:.0f}%"


def plural(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def shortened(name: str, width: int) -> str:
    """A name shortened in the middle, since similar names often differ at the end."""
    return name if len(name) <= width else f"{name[: width - 4]}…{name[-3:]}"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The last values as bars from minimum to maximum; a blank for None."""
    latest = list(values)[-width:]
    defined = [value for value in latest if value is not None]
    if not defined:
        return ""
    minimum, span = min(defined), (max(defined) - min(defined)) or 1.0
    return "".join(
        " " if value is None else _BARS[round((value - minimum) / span * (len(_BARS) - 1))]
        for value in latest
    )
