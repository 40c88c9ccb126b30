"""Numbers and texts as the screens show them."""

from __future__ import annotations

from collections.abc import Sequence

from ..runs.stored_text import visible

UNKNOWN = "–"
_BARS = "▁▂▃▄▅▆▇█"


def one_line(text: str) -> str:
    """The text on one line; a break is shown as ⏎."""
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
    """A name with its middle left out, where names that begin alike differ at their ends."""
    return name if len(name) <= width else f"{name[: width - 4]}…{name[-3:]}"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The last values as bars between the least and the greatest; a blank where there is none."""
    shown = list(values)[-width:]
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    least, span = min(known), (max(known) - min(known)) or 1.0
    return "".join(
        " " if value is None else _BARS[round((value - least) / span * (len(_BARS) - 1))]
        for value in shown
    )
