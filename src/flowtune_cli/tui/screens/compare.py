"""Compare: runs side by side, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

Comparison = tuple[str, ...]
"""What is compared, and its value in each run."""


class CompareScreen(InspectScreen):
    """A metric of all runs over the episodes; below, metrics, nodes, and differing settings."""

    HELP = "Compare: which of them learns better, and what did they do differently?"
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

    def __init__(self, *sides: OpenRun) -> None:
        super().__init__()
        self.sides = sides
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
        self.query_one(TitleBar).show(["compare", self._names], following=self.inspector.following)
        series = [side.reader.metrics(200) if side.reader else {} for side in self.sides]
        names = _all_names(series)
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
        count = len(self.sides)
        width = min(max(20 if count == 2 else 12, (self.size.width - 30) // count - 1), 30)
        for heading, rows in self._tables():
            lines.append(Content.assemble((heading, "bold")))
            for name, *values in rows:
                differs = "≠" if len(set(values)) > 1 else " "
                cells = "".join(f"{value:>{width}} " for value in values)
                lines.append(Content(f"{differs} {name:<26}{cells}"))
            lines.append(Content(""))
        return Content("\n").join(lines)

    def _tables(self) -> Iterator[tuple[str, Sequence[Comparison]]]:
        yield (
            "run",
            [
                ("name", *(side.name for side in self.sides)),
                *(
                    (key, *(str(getattr(side.info, key)) for side in self.sides))
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
        for name in _all_names(lasts):
            one, *others = (of.get(name) for of in lasts)
            yield name, number(one), *(_with_gap(other, one) for other in others)

    def _node_rows(self) -> Iterator[Comparison]:
        of: list[dict[str, NodeSummary]] = [
            {node.node: node for node in side.reader.node_summary()} if side.reader else {}
            for side in self.sides
        ]
        for name in _all_names(of):
            stats = [_learning_stats(of_side.get(name)) for of_side in of]
            for stat in stats[0]:
                yield f"{name} {stat}", *(of_side[stat] for of_side in stats)

    def _setting_rows(self) -> Iterator[Comparison]:
        settings: list[dict[str, Any]] = []
        for side in self.sides:
            try:
                stored = side.directory.settings
                of_data = {"data": stored.get("data") or {}}
                settings.append(dict(flatten({**stored.get("settings", {}), **of_data})))
            except FlowtuneError as error:
                yield "cannot be read", *(str(error) if each is side else "" for each in self.sides)
                return
        for key in _all_names(settings):
            values = [str(of.get(key, UNKNOWN)) for of in settings]
            if len(set(values)) > 1:
                yield key, *values

    def action_metric(self) -> None:
        self.shift += 1
        self.update()

    def action_scroll(self, by: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def copy_text(self) -> str:
        return self.export().markdown()

    def export(self) -> ScreenExport:
        names = [side.name for side in self.sides]
        tables = [(heading, list(rows)) for heading, rows in self._tables()]
        records = [
            {"table": heading, "what": what, **dict(zip(names, values, strict=True))}
            for heading, rows in tables
            for what, *values in rows
        ]

        def markdown() -> str:
            parts = [table([heading, *names], rows) for heading, rows in tables]
            return f"# {self._names}\n\n" + "\n".join(parts)

        return ScreenExport("-and-".join(names), "the comparison", lambda: records, markdown)

    @property
    def _names(self) -> str:
        *first, last = (side.name for side in self.sides)
        return f"{', '.join(first)} and {last}"


def _all_names(of_sides: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({name for of_side in of_sides for name in of_side})


def _with_gap(value: float | None, first: float | None) -> str:
    """A figure, with its difference to that of the first run."""
    if value is None or first is None:
        return number(value)
    return f"{number(value)} ({signed(value - first)})"


def _learning_stats(node: NodeSummary | None) -> dict[str, str]:
    """How a node learned: preferences, wins, loss, drift."""
    return {
        "preferences": f"{node.preferences:,}" if node else UNKNOWN,
        "wins": UNKNOWN if node is None or node.win_rate is None else f"{node.win_rate:.0%}",
        "loss": number(node.last_loss if node else None),
        "drift": number(node.last_update.reference_drift if node and node.last_update else None, 2),
    }
