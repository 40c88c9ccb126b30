"""Runs: all runs of a directory with state and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Static

from ...runs.directory import RunInfo, list_runs
from ...runs.records import MetricPoint
from ..formatting import UNKNOWN, number, sparkline
from ..open_run import OpenRun
from ..screen_export import ScreenExport, table
from ..symbols import STATES, Badge
from ..widgets.lazy_table import Column, LazyTable, Row
from ..widgets.title_bar import TitleBar
from .base import COMMON_BINDINGS, InspectScreen

_TREND = 8
Series = dict[str, list[MetricPoint]]


class RunsScreen(InspectScreen):
    """All runs of a directory, the newest first."""

    HELP = "Runs: what state are they in, and which of them learn?"
    DEFAULT_CSS = """
    RunsScreen {
        LazyTable { height: 1fr; }
        #problem { height: auto; padding: 0 1; color: $text-warning; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "compare", "Compare"),
        Binding("space", "mark", "Mark", show=False),
        Binding("m", "metric", "Metric"),
        *COMMON_BINDINGS,
    ]

    def __init__(self, parent: Path) -> None:
        super().__init__()
        self.directory = parent
        self.runs: list[RunInfo] = []
        self.marked: list[Path] = []
        self.shift = 0

    def body(self) -> ComposeResult:
        yield LazyTable()
        yield Static(id="problem", markup=False)

    def poll(self) -> object:
        return object()  # any run may have progressed

    def update(self) -> None:
        selected = self._under_cursor()
        self.runs = list_runs(self.directory)[::-1]
        self.query_one(TitleBar).show(["runs"], following=self.inspector.following)
        paths = [run.path for run in self.runs]
        cursor = paths.index(selected.path) if selected and selected.path in paths else None
        columns = [
            Column("run", 16),
            Column("task", 8),
            Column("state", 13),
            Column("episodes", 8, right=True),
            Column("trend", _TREND),
            Column("mean of the run"),
        ]
        if self.size.width >= 110:
            columns.append(Column("created", 16))
        if self.size.width >= 140:
            columns.append(Column("model", 22))
        if any(run.tags for run in self.runs):
            columns.insert(1, Column("tags", 16))
        self.query_one(LazyTable).show(columns, len(self.runs), self._load, cursor)
        self._show_status()

    def _load(self, first: int, last: int) -> Sequence[Row]:
        return [self._row(run) for run in self.runs[first:last]]

    def _row(self, run: RunInfo) -> Row:
        series = _series(self.inspector.open_store(run.path))
        names = sorted(series)
        names = names[self.shift % len(names) :] + names[: self.shift % len(names)] if names else []
        lasts = [f"{name} {number(series[name][-1].metric.overall)}" for name in names]
        name = Content(run.name)
        if run.path in self.marked:
            name = Content.assemble(("[c] ", "$text-accent bold"), run.name)
        trend = ""
        if names:
            trend = sparkline([point.metric.window for point in series[names[0]]], _TREND)
        return [
            name,
            *([", ".join(run.tags)] if any(each.tags for each in self.runs) else []),
            run.task,
            STATES.get(run.state, Badge("?", run.state, "")).content,
            f"{run.episodes:,}",
            trend,
            "  ".join(lasts) or UNKNOWN,
            run.created[:16].replace("T", " "),
            run.model,
        ]

    def _under_cursor(self) -> RunInfo | None:
        return self.runs[self.query_one(LazyTable).cursor] if self.runs else None

    def _show_status(self) -> None:
        """Show below the table the problem of the run at the cursor, or what to do."""
        run = self._under_cursor()
        if run is None:
            text = f"There are no runs in {self.directory}. Make one with 'flowtune train TASK'."
        elif run.problem:
            text = run.problem
        else:
            text = self.inspector.open_store(run.path).problem
            text = text or run.note
            if not text and self.marked:
                names = " and ".join(path.name for path in self.marked)
                are = "is" if len(self.marked) == 1 else "are"
                text = f"{names} {are} marked [c]: on another run, c compares, space marks it, too."
        note = self.query_one("#problem", Static)
        note.update(Content(text))
        note.display = bool(text)

    def on_lazy_table_moved(self) -> None:
        self._show_status()

    def on_lazy_table_chosen(self, event: LazyTable.Chosen) -> None:
        self.inspector.open_run(self.runs[event.index].path)

    def action_metric(self) -> None:
        self.shift += 1
        self.update()

    def action_compare(self) -> None:
        run = self._under_cursor()
        if run is None:
            return
        if self.marked in ([], [run.path]):
            self.action_mark()
            return
        compared = list(dict.fromkeys([*self.marked, run.path]))
        self.marked = []
        self.inspector.open_comparison(compared)

    def action_mark(self) -> None:
        """Mark the run at the cursor for a comparison, or no longer."""
        run = self._under_cursor()
        if run is None:
            return
        if run.path in self.marked:
            self.marked.remove(run.path)
        else:
            self.marked.append(run.path)
        self.update()

    def copy_text(self) -> str:
        run = self._under_cursor()
        return str(run.path) if run else ""

    def export(self) -> ScreenExport:
        records = []
        for run in self.runs:
            series = _series(self.inspector.open_store(run.path))
            records.append(
                {
                    **{key: getattr(run, key) for key in ("name", "task", "model", "state")},
                    "episodes": run.episodes,
                    "created": run.created,
                    "metrics": {name: points[-1].metric for name, points in series.items()},
                    "problem": run.problem,
                }
            )

        def markdown() -> str:
            rows = [
                [
                    *(str(run[key]) for key in ("name", "task", "state", "episodes")),
                    ", ".join(f"{n} {number(m.overall)}" for n, m in run["metrics"].items()),
                ]
                for run in records
            ]
            return table(["run", "task", "state", "episodes", "metrics"], rows)

        return ScreenExport("runs", f"{len(records)} runs", lambda: records, markdown)


def _series(run: OpenRun) -> Series:
    run.refresh()
    return {} if run.reader is None else run.reader.metrics(_TREND)
