"""Plots metrics over the episodes, and marks reference moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static
from textual_hires_canvas import HiResMode
from textual_plot import PlotWidget

from ..formatting import number

Points = Sequence[tuple[int, float | None]]
"""The number of episodes, and the value then."""

MOVED = "◆"
"""Marks reference moves below a plot."""

MARK = "●"
"""One of a line's single points."""


@dataclass(frozen=True)
class Line:
    """One line of a plot: drawn with blocks if ``thick``, else with dots; or single ``marks``."""

    name: str
    points: Points
    thick: bool = False
    marks: bool = False

    @property
    def last(self) -> float | None:
        return next((value for _, value in reversed(self.points) if value is not None), None)


class MetricPlot(Vertical):
    """Lines over the episodes, with their names and last values above."""

    DEFAULT_CSS = """
    MetricPlot {
        width: 1fr; height: 1fr; min-height: 6; padding: 0 1;
        & > .plot-title { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
        & > PlotWidget { height: 1fr; & > .plot--axis, & > .plot--tick { color: $text-muted; } }
    }
    """

    _content: tuple[str, Sequence[Line], Sequence[int]] | None = None

    def on_mount(self) -> None:
        # A plot needs colours, not names of colours.
        self.app.theme_changed_signal.subscribe(self, lambda _: self._redraw())

    def _redraw(self) -> None:
        if self._content is not None:
            self.show(*self._content)

    def compose(self) -> ComposeResult:
        yield Static(classes="plot-title")
        plot = PlotWidget(allow_pan_and_zoom=False)
        plot.can_focus = False
        for margin, size in (("margin_top", 0), ("margin_bottom", 1), ("margin_left", 5)):
            plot.set_reactive(getattr(PlotWidget, margin), size)
        yield plot

    def show(self, title: str, lines: Sequence[Line], moves: Sequence[int] = ()) -> None:
        """Show these lines, the thick ones on top.

        Args:
            moves: the numbers of episodes at which references moved.
        """
        self._content = (title, lines, moves)
        colors = self.app.theme_variables
        styles = {True: colors["accent"], False: colors["foreground"]}
        parts = [Content.assemble((title, "bold"))]
        for line in lines:
            sign = MARK if line.marks else "▄" if line.thick else "⠤"
            parts.append(
                Content.assemble(
                    " ", (sign, styles[line.thick]), f"{line.name} ", (number(line.last), "bold")
                )
            )
        self.query_one(Static).update(Content("").join(parts))

        plot = self.query_one(PlotWidget)
        plot.clear()
        for line in sorted(lines, key=lambda line: line.thick):
            points = [(x, y) for x, y in line.points if y is not None]
            if not points:
                continue
            xs, ys = zip(*points, strict=True)
            mode = HiResMode.QUADRANT if line.thick else HiResMode.BRAILLE
            if line.marks:
                plot.scatter(xs, ys, MARK, styles[line.thick])
            elif len(points) == 1:  # a line needs two points
                plot.scatter(xs, ys, "■" if line.thick else "•", styles[line.thick])
            else:
                plot.plot(xs, ys, styles[line.thick], mode)
        low, high = _limits([y for line in lines for _, y in line.points if y is not None])
        spare = (high - low) * 0.06
        plot.set_yticks(_ticks(low, high, most=max(2, min(5, self.size.height // 3))))
        plot.set_ylimits(low - spare, high + spare)
        if moves:
            plot.scatter(moves, [low - spare] * len(moves), MOVED, colors["foreground"])
        end = max((x for line in lines for x, _ in line.points), default=1)
        plot.set_xlimits(0, end * 1.03)  # keeps the last points inside the frame


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """The range of the y axis: at least so large that noise does not look big."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    in_unit = low >= 0 and high <= 1
    min_span = 0.25 if in_unit else abs(high) * 0.05 or 1.0
    missing = max(0.0, min_span - (high - low)) / 2
    low, high = low - missing, high + missing
    shift = max(0.0, -low) - max(0.0, high - 1) if in_unit else 0.0
    return low + shift, high + shift


def _ticks(low: float, high: float, *, most: int) -> list[float]:
    """Round numbers from ``low`` to ``high``: as many as possible, but at most ``most + 1``."""
    power = 10.0 ** math.floor(math.log10(high - low))
    ticks: list[float] = []
    for factor in (0.2, 0.5, 1.0, 2.0, 5.0):
        step = factor * power
        first = math.ceil(low / step - 1e-9)
        ticks = [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]
        if len(ticks) <= most + 1:
            break
    return ticks
