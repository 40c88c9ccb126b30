"""Draws plots as SVG elements of the page, in the page's colours and with numbers as only text.

The page writes all names, in the legend (see ``Line.dash``), so nothing needs escaping here.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# Placeholders for the page's CSS variables, which matplotlib does not support.
_INK, _FAINT = "#010203", "#010204"
_SERIES = tuple(f"#0102{number:02x}" for number in range(0x10, 0x18))
_VARIABLES = {
    _INK: "var(--ink)",
    _FAINT: "var(--faint)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES)},
}
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 2), (8, 2, 2, 2), (4, 4), (1, 2))
"""Dashes also distinguish lines: on and off in points; () is solid."""

MARKERS = "os^Dvp"

_MAX_EVENT_LINES = 12
"""With more events, only their marks on the axis are drawn, not vertical lines."""


@dataclass(frozen=True)
class Line:
    """A line of a plot.

    Args:
        points: (x, y) in the order of x; None as y breaks the line.
        number: selects colour, dashes and markers.
        marked: the x values with a marker.
        thin: draw it thinner.
    """

    points: Sequence[tuple[float, float | None]]
    number: int = 0
    marked: frozenset[float] = frozenset()
    thin: bool = False

    @property
    def dash(self) -> tuple[float, ...]:
        return DASHES[self.number % len(DASHES)]


@dataclass(frozen=True)
class Plot:
    """Lines over episodes.

    Args:
        unit: scale the y axis from 0 to 1.
        events: x values to mark on the axis, and with a vertical line if there are few.
    """

    lines: Sequence[Line]
    unit: bool = False
    events: Sequence[float] = field(default=())

    @property
    def empty(self) -> bool:
        return not any(y is not None for line in self.lines for _, y in line.points)


def draw(plot: Plot, name: str, width: float = 5.2, height: float = 2.4) -> str:
    """The plot as an ``<svg>`` element.

    Args:
        name: unique in the page.
        width, height: in inches of 96 CSS pixels.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9,
        "font.family": "sans-serif",
        "text.color": _INK,
        "axes.edgecolor": _FAINT,
        "axes.labelcolor": _INK,
        "xtick.color": _FAINT,
        "ytick.color": _FAINT,
        "xtick.labelcolor": _INK,
        "ytick.labelcolor": _INK,
        "grid.color": _FAINT,
        "grid.alpha": 0.35,
        "grid.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none")
        axes.grid(axis="y")
        axes.set_xlabel("episodes")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if plot.unit:
            axes.set_ylim(-0.03, 1.03)
        for event in plot.events:
            if len(plot.events) <= _MAX_EVENT_LINES:
                axes.axvline(event, color=_INK, linewidth=1, dashes=(1, 2.5))
            # On the axis, independent of the values.
            axes.plot(
                [event], [0], "^", color=_INK, transform=axes.get_xaxis_transform(), clip_on=False
            )
        for line in plot.lines:
            _draw_line(axes, line)
        axes.set_xlim(left=0)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return _for_page(out.getvalue(), name)


def _draw_line(axes: Any, line: Line) -> None:
    colour = _SERIES[line.number % len(_SERIES)]
    xs = [x for x, _ in line.points]
    ys = [float("nan") if y is None else y for _, y in line.points]
    single = len(line.points) == 1
    axes.plot(
        xs,
        ys,
        color=colour,
        linewidth=1.4 if line.thin else 2.2,
        **({"dashes": line.dash} if line.dash else {}),
        marker=MARKERS[line.number % len(MARKERS)],
        markersize=5,
        markevery=[i for i, x in enumerate(xs) if single or x in line.marked],
    )


def _for_page(svg: str, name: str) -> str:
    """The ``<svg>`` element with the page's colours and font, and with ids unique in the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    # Nothing refers to the ids of groups.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'\s(width|height)="[0-9.]+pt"', "", svg, count=2)
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, variable)
    return svg.strip()
