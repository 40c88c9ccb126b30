"""Compare: two runs side by side, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from ...flow.errors import FlowtuneError
from ...runs.records import NodeSummary
from ..formatting import UNKNOWN, number, signed
from ..open_run import OpenRun
from ..screen_export import ScreenExport, flatten, table
from ..widgets.metric_plot import Line, MetricPlot
from ..widgets.title_bar import TitleBar
from .base import COMMON_BINDINGS, InspectScreen

Comparison = tuple[str, str, str]
"""What is compared, and its value in both runs."""


class CompareScreen(InspectScreen):
    """A metric of both runs over the episodes; below, metrics, nodes, and differing settings."""

    HELP = "Compare: which of the two learns better, and what did they do differently?"
    DEFAULT_CSS = """
    CompareScreen {
        MetricPlot { height: 40%; }
        VerticalScroll { height: 1fr; padding: 0 1; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "metric", "Next metric"),
        Binding("j", "scroll(1)", show=False),
        Binding("k", "scroll(-1)", show=False),
        *COMMON_BINDINGS,
    ]

    def __init__(self, one: OpenRun, other: OpenRun) -> None:
        super().__init__()
        self.sides = (one, other)
        self.shift = 0

    def body(self) -> ComposeResult:
        yield MetricPlot()
        with VerticalScroll():
            yield Static(id="table", markup=False)

    def on_resize(self) -> None:
        self.update()

    def poll(self) -> object:
        return [side.refresh() for side in self.sides]

    def update(self) -> None:
        for side in self.sides:
            side.refresh()
        one, other = (side.name for side in self.sides)
        self.query_one(TitleBar).show(
            ["compare", f"{one} and {other}"], following=self.inspector.following
        )
        series = [side.reader.metrics(200) if side.reader else {} for side in self.sides]
        names = sorted({*series[0], *series[1]})
        if names:
            name = names[self.shift % len(names)]
            lines = [
                Line(
                    side.name,
                    [(point.episodes, point.metric.overall) for point in of.get(name, ())],
                    thick=side is self.sides[0],
                )
                for side, of in zip(self.sides, series, strict=True)
            ]
            self.query_one(MetricPlot).show(f"{name}, mean of the run", lines)
        self.query_one("#table", Static).update(self._content())

    def _content(self) -> Content:
        lines = []
        width = max(20, (self.size.width - 30) // 2 - 1)
        for heading, rows in self._tables():
            lines.append(Content.assemble((heading, "bold")))
            for name, *values in rows:
                differs = "≠" if values[0] != values[1] else " "
                cells = "".join(f"{value:>{min(width, 30)}} " for value in values)
                lines.append(Content(f"{differs} {name:<26}{cells}"))
            lines.append(Content(""))
        return Content("\n").join(lines)

    def _tables(self) -> Iterator[tuple[str, Sequence[Comparison]]]:
        one, other = self.sides
        yield (
            "run",
            [
                ("name", one.name, other.name),
                *(
                    (key, str(getattr(one.info, key)), str(getattr(other.info, key)))
                    for key in ("task", "model", "state", "episodes")
                ),
            ],
        )
        yield "metrics (mean of the run)", list(self._metric_rows())
        yield "nodes", list(self._node_rows())
        yield "settings that differ", list(self._setting_rows())

    def _metric_rows(self) -> Iterator[Comparison]:
        lasts = []
        for side in self.sides:
            series = side.reader.metrics(1) if side.reader else {}
            lasts.append({name: points[-1].metric.overall for name, points in series.items()})
        for name in sorted({*lasts[0], *lasts[1]}):
            one, other = (of.get(name) for of in lasts)
            gap = signed(other - one) if one is not None and other is not None else ""
            yield name, number(one), f"{number(other)} {f'({gap})' if gap else ''}".strip()

    def _node_rows(self) -> Iterator[Comparison]:
        of: list[dict[str, NodeSummary]] = [
            {node.node: node for node in side.reader.node_summary()} if side.reader else {}
            for side in self.sides
        ]
        for name in sorted({*of[0], *of[1]}):
            one, other = _learning_stats(of[0].get(name)), _learning_stats(of[1].get(name))
            for stat in one:
                yield f"{name} {stat}", one[stat], other[stat]

    def _setting_rows(self) -> Iterator[Comparison]:
        settings: list[dict[str, Any]] = []
        for side in self.sides:
            try:
                settings.append(dict(flatten(side.directory.settings.get("settings", {}))))
            except FlowtuneError as error:
                yield ("cannot be read", side.name, str(error))
                return
        for key in sorted({*settings[0], *settings[1]}):
            one, other = (str(of.get(key, UNKNOWN)) for of in settings)
            if one != other:
                yield key, one, other

    def action_metric(self) -> None:
        self.shift += 1
        self.update()

    def action_scroll(self, by: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def copy_text(self) -> str:
        return self.export().markdown()

    def export(self) -> ScreenExport:
        one, other = (side.name for side in self.sides)
        tables = [(heading, list(rows)) for heading, rows in self._tables()]
        records = [
            {"table": heading, "what": name, one: left, other: right}
            for heading, rows in tables
            for name, left, right in rows
        ]

        def markdown() -> str:
            parts = [table([heading, one, other], rows) for heading, rows in tables]
            return f"# {one} and {other}\n\n" + "\n".join(parts)

        return ScreenExport(f"{one}-and-{other}", "the comparison", lambda: records, markdown)


def _learning_stats(node: NodeSummary | None) -> dict[str, str]:
    """How a node learned: preferences, wins, loss, drift."""
    return {
        "preferences": f"{node.preferences:,}" if node else UNKNOWN,
        "wins": UNKNOWN if node is None or node.win_rate is None else f"{node.win_rate:.0%}",
        "loss": number(node.last_loss if node else None),
        "drift": number(node.last_update.reference_drift if node and node.last_update else None, 2),
    }
