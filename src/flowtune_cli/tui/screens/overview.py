"""Overview: the metrics of a run, its nodes, and findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from ...runs.evaluations import Evaluation, best_of, evaluations_json
from ...runs.records import Counts, Filter, NodeSummary
from ...runs.usage import used_text
from ..findings import completeness, findings
from ..formatting import UNKNOWN, number, percent, plural, sparkline
from ..open_run import OpenRun
from ..screen_export import ScreenExport, table
from ..widgets.lazy_table import Column, LazyTable, Row
from ..widgets.metric_plot import MOVED, Line, MetricPlot, Points
from ..widgets.title_bar import TitleBar
from .base import COMMON_BINDINGS, InspectScreen

_POINTS, _TREND, _PLOT = 200, 16, 38
"""The most batches in a plot and in a sparkline, and the minimum width of a plot."""
_COLUMNS = (
    Column("node"),
    Column("calls", 7, right=True),
    Column("prefs", 7, right=True),
    Column("ties", 5, right=True),
    Column("wins", 5, right=True),
    Column("margin", 6, right=True),
    Column("loss", 6, right=True),
    Column("drift", 5, right=True),
    Column("cut", 6, right=True),
    Column("tok/s", 6, right=True),
)


class OverviewScreen(InspectScreen):
    """Plots of the metrics, a table of the nodes, and findings."""

    HELP = (
        "Overview: does the run learn? Plots: each metric's mean over its window and over the run."
        " Nodes: wins = share of alternatives that beat the greedy output, without ties; margin ="
        " mean reward difference of its preferences; drift = distance of the policy from its"
        " reference; cut = truncated outputs; tok/s = generated tokens per second, with training."
    )
    DEFAULT_CSS = """
    OverviewScreen {
        #about, #problem { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
        #problem { height: auto; text-wrap: wrap; color: $text-warning; }
        #plots { height: 1fr; min-height: 7; }
        LazyTable { height: auto; max-height: 9; min-height: 3; }
        #findings { height: auto; max-height: 6; padding: 0 1; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "episodes", "Episodes"),
        Binding("m", "metric", "Next metric"),
        *COMMON_BINDINGS,
    ]

    def __init__(self, run: OpenRun) -> None:
        super().__init__()
        self.run = run
        self.nodes: list[NodeSummary] = []
        self.shift = 0

    def body(self) -> ComposeResult:
        yield Static(id="about")
        yield Static(id="problem", markup=False)
        yield Horizontal(id="plots")
        yield LazyTable()
        yield Static(id="findings")

    def poll(self) -> object:
        return self.run.refresh()

    def on_resize(self) -> None:
        self.update()

    def update(self) -> None:
        self.run.refresh()
        info = self.run.info
        self.query_one(TitleBar).show([self.run.name], info, following=self.inspector.following)
        problem = " ".join(filter(None, (info.problem, self.run.problem)))
        if info.state == "interrupted":
            problem = f"{problem} Its process is gone: resume with {info.resume}".strip()
        note = self.query_one("#problem", Static)
        note.update(Content(problem))
        note.display = bool(problem)
        reader = self.run.reader
        for widget in ("#plots", "LazyTable", "#findings"):
            self.query_one(widget).display = reader is not None
        if reader is None:
            self.query_one("#about", Static).update(Content(f"{info.task}  {info.model}"))
            return
        counts = reader.counts()
        self.nodes = reader.node_summary()
        seconds = sum(reader.timings().values())
        self._show_about(counts, seconds)
        self._show_plots()
        self._show_nodes(seconds)
        texts = findings(counts, self.nodes, reader.learning_warnings())
        found = [completeness(counts), *(f"→ {text}" for text in texts)]
        room = 4 if self.size.height < 30 else 6
        if len(found) > room:
            found[room - 1 :] = [f"… and {len(found) - room + 1} more: y copies all"]
        self.query_one("#findings", Static).update(Content("\n".join(found)))

    def _show_about(self, counts: Counts, seconds: float) -> None:
        info = self.run.info
        parts = [info.task, info.model, plural(counts.episodes, "episode")]
        parts.append(plural(counts.preferences, "preference"))
        if counts.targets:
            parts.append(plural(counts.targets, "target"))
        moves = max((node.reference_moves for node in self.nodes), default=0)
        parts.append(f"{MOVED} references moved {moves}×")
        best = best_of(self.run.reader.evaluations()) if self.run.reader else None
        if best is not None:
            parts.append(
                f"best held-out {best.metric_name} {number(best.value)} at"
                f" {best.episodes:,} episodes"
            )
        if seconds:
            parts.append(f"{counts.episodes / seconds * 60:.1f} episodes/min")
        parts.append(used_text(info.usage, self.nodes))
        if info.engine:
            parts.append(f"engine: {info.engine}")
        self.query_one("#about", Static).update(Content(" · ".join(filter(None, parts))))

    def _show_plots(self) -> None:
        assert self.run.reader is not None
        series = self.run.reader.metrics(_POINTS)
        moves = self.run.reader.reference_moves(20)
        held_out = _points(self.run.reader.evaluations())
        names = [*sorted(series), *sorted(held_out.keys() - series.keys())]
        shift = self.shift % len(names) if names else 0
        names = (names[shift:] + names[:shift])[: max(1, self.size.width // _PLOT)]
        holder = self.query_one("#plots")
        plots = list(holder.query(MetricPlot))
        if len(plots) != len(names):
            self._change_plots(len(names) - len(plots), plots)
            return
        for name, plot in zip(names, plots, strict=True):
            lines = []
            if name in series:
                window = [(point.episodes, point.metric.window) for point in series[name]]
                overall = [(point.episodes, point.metric.overall) for point in series[name]]
                lines = [Line("window", window, thick=True), Line("run", overall)]
            if name in held_out:
                lines.append(Line("held out", held_out[name], marks=True))
            plot.show(name, lines, moves)

    def _change_plots(self, more: int, plots: Sequence[MetricPlot]) -> None:
        async def change() -> None:
            for plot in plots[more:] if more < 0 else ():
                await plot.remove()
            await self.query_one("#plots").mount_all(MetricPlot() for _ in range(max(0, more)))
            self._show_plots()

        self.call_later(change)

    def _show_nodes(self, seconds: float) -> None:
        assert self.run.reader is not None
        updates = self.run.reader.updates(_TREND)
        rows = [
            self._row(node, [p.update.loss for p in updates.get(node.node, ())], seconds)
            for node in self.nodes
        ]
        columns = [*_COLUMNS, Column("loss", _TREND)] if self.size.width >= 100 else _COLUMNS
        self.query_one(LazyTable).show(columns, len(rows), lambda a, b: rows[a:b])

    def _row(self, node: NodeSummary, losses: Sequence[float | None], seconds: float) -> Row:
        update = node.last_update
        compared = node.better + node.worse + node.ties
        return [
            node.node,
            f"{node.steps:,}",
            f"{node.preferences:,}" if node.rollouts or node.preferences else UNKNOWN,
            percent(node.ties, compared),
            UNKNOWN if node.win_rate is None else f"{node.win_rate:.0%}",
            number(node.mean_margin, 2),
            number(node.last_loss, 3),
            number(update.reference_drift if update else None, 2),
            f"{node.truncated:,}",
            f"{node.tokens / seconds:.1f}" if seconds and node.tokens else UNKNOWN,
            sparkline(losses, _TREND),
        ]

    def on_lazy_table_chosen(self, event: LazyTable.Chosen) -> None:
        self.inspector.open_episodes(self.run, Filter(node=self.nodes[event.index].node))

    def action_episodes(self) -> None:
        self.inspector.open_episodes(self.run, Filter())

    def action_metric(self) -> None:
        self.shift += 1
        self.update()

    def copy_text(self) -> str:
        return self.export().markdown()

    def export(self) -> ScreenExport:
        reader = self.run.reader
        if reader is None:
            problem = self.run.problem
            return ScreenExport(self.run.name, "nothing", list, lambda: problem)
        counts, nodes, timings = reader.counts(), reader.node_summary(), reader.timings()
        warnings = reader.learning_warnings()
        metrics, seconds = reader.metrics(), sum(timings.values())
        evaluations = reader.evaluations()

        def markdown() -> str:
            heads = ["metric", "window", "run", "defined", "undefined"]
            lasts = {name: points[-1].metric for name, points in metrics.items()}
            rows = [
                [name, number(m.window), number(m.overall), f"{m.defined}", f"{m.undefined}"]
                for name, m in lasts.items()
            ]
            named = [column.title for column in _COLUMNS]
            node_rows = [[str(cell) for cell in self._row(n, (), seconds)[:-1]] for n in nodes]
            texts = [completeness(counts), *findings(counts, nodes, warnings)]
            found = "".join(f"- {text}\n" for text in texts)
            tables = f"{table(heads, rows)}\n{table(named, node_rows)}"
            if evaluations:
                tables += f"\n{_evaluation_table(evaluations)}"
            return f"# {self.run.name}\n\n{found}\n{tables}"

        records = [{"counts": counts, "timings": timings}, *({"node": node} for node in nodes)]
        records += [{"metric": name, "points": points} for name, points in metrics.items()]
        records += [{"evaluation": each} for each in evaluations_json(evaluations)]
        records += [{"warning": warning} for warning in warnings]
        return ScreenExport(self.run.name, "the overview", lambda: records, markdown)


def _points(evaluations: Sequence[Evaluation]) -> dict[str, Points]:
    """Each figure on held-out examples, over the run."""
    names = dict.fromkeys(name for each in evaluations for name in each.figures)
    return {
        name: [
            (each.episodes, each.figures[name].value)
            for each in evaluations
            if name in each.figures
        ]
        for name in names
    }


def _evaluation_table(evaluations: Sequence[Evaluation]) -> str:
    best = best_of(evaluations)
    names = list(_points(evaluations))
    rows = []
    for each in evaluations:
        values = [each.figures[name].value if name in each.figures else None for name in names]
        mark = "best" if each is best else ""
        failed = f"{each.failed} of {each.examples}"
        rows.append([f"{each.episodes}", *map(number, values), failed, mark])
    return table(["held out, after episodes", *names, "failed", ""], rows)
