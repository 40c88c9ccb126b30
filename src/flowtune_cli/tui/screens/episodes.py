"""Episodes: a list with filter, sort and search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Input, Static
from textual.worker import get_current_worker

from ...runs.reader import RunReader
from ...runs.records import EpisodeSummary, Filter, Order
from ..dialogs.choices import Choice, ChooseMany, ChooseOne
from ..episode_query import NEWEST_FIRST, EpisodeQuery, QueryResult, run_query
from ..formatting import number, one_line, plural, shortened, signed
from ..open_run import OpenRun
from ..screen_export import ScreenExport, table
from ..symbols import OUTCOMES, gain_label, problem_flags
from ..widgets.lazy_table import Column, LazyTable, Row
from ..widgets.title_bar import TitleBar
from .base import COMMON_BINDINGS, InspectScreen

_CHUNK = 500


class EpisodesScreen(InspectScreen):
    """All episodes, or those of a query; by default newest first."""

    HELP = "Episodes: which ones are worth reading? gain = the highest gain of an alternative."
    DEFAULT_CSS = """
    EpisodesScreen {
        LazyTable { height: 1fr; }
        #about { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
        #warning { height: auto; padding: 0 1; display: none; color: $text-warning; }
        Input { padding: 0 1; display: none; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f", "filter", "Filter"),
        Binding("slash", "search", "Search", key_display="/"),
        Binding("s", "sort", "Sort"),
        *COMMON_BINDINGS,
    ]

    def __init__(self, run: OpenRun, where: Filter) -> None:
        super().__init__()
        self.run = run
        self.selection = EpisodeQuery(where)
        self.result: QueryResult | None = None
        self.count = 0
        self.rewards: list[str] = []
        self.warnings: dict[str | None, str] = {}

    def body(self) -> ComposeResult:
        yield Static(id="about")
        yield Static(id="warning", markup=False)
        yield LazyTable()
        search = Input(placeholder="text in questions, prompts and outputs", compact=True)
        search.cursor_blink = False
        yield search

    def poll(self) -> object:
        return self.run.refresh()

    def update(self) -> None:
        self.run.refresh()
        where = [self.run.name, "episodes"]
        self.query_one(TitleBar).show(where, self.run.info, following=self.inspector.following)
        if self.run.reader is not None:
            self.count = self.run.reader.counts().episodes
            self.rewards = self.run.reader.rewards()
            warnings = self.run.reader.learning_warnings()
            self.warnings = {warning.node: f"{warning.text}." for warning in warnings}
        if self.selection.is_default:
            self._show()
        else:
            self._run_query(self.selection, self.result)

    # The list

    def number_at(self, index: int) -> int:
        if self.selection.is_default:
            return self.count - 1 - index
        assert self.result is not None
        return self.result.numbers[index]

    def _select(self, selection: EpisodeQuery) -> None:
        self.selection, self.result = selection, None
        self.query_one(LazyTable).show((), 0, lambda a, b: (), 0)
        self.update()

    @work(thread=True, exclusive=True, group="query", exit_on_error=True)
    def _run_query(self, query: EpisodeQuery, previous: QueryResult | None) -> None:
        worker = get_current_worker()

        def report(result: QueryResult) -> bool:
            if not worker.is_cancelled:
                self.app.call_from_thread(self._show_result, query, result)
            return not worker.is_cancelled

        run_query(self.run.directory.store_path, query, previous, report)

    def _show_result(self, query: EpisodeQuery, result: QueryResult) -> None:
        if query == self.selection and self.is_attached:
            self.result = result
            self._show()

    def _show(self) -> None:
        rows = self.query_one(LazyTable)
        count = (
            self.count
            if self.selection.is_default
            else len(self.result.numbers if self.result else ())
        )
        # The cursor stays on its episode when new ones are inserted above, except in the first row.
        cursor = None
        if rows.count and rows.cursor and self._newest_first:
            cursor = rows.cursor + max(0, count - rows.count)
            if self.result is not None and self.result.searched < self.result.total:
                cursor = None
        rows.show(self._columns(), count, self._load, cursor)
        self._show_status(count)

    @property
    def _newest_first(self) -> bool:
        return self.selection.order == NEWEST_FIRST

    def _columns(self) -> list[Column]:
        wide = self.size.width >= 100
        rewards = self.rewards[: 5 if wide else 3]
        return [
            Column("episode", 7, right=True),
            Column("question"),
            *(
                Column(shortened(name, 10 if wide else 6), 10 if wide else 6, True)
                for name in rewards
            ),
            Column("prefs", 5, right=True),
            Column("gain", 6, right=True),
            Column("data", 11 if wide else 5),
        ]

    def _load(self, first: int, last: int) -> Sequence[Row]:
        if self.run.reader is None:
            return ()
        numbers = [self.number_at(index) for index in range(first, last)]
        return [self._row(episode) for episode in self.run.reader.summaries(numbers)]

    def _row(self, episode: EpisodeSummary) -> Row:
        visible_rewards = len(self._columns()) - 5
        rewards = [number(episode.rewards.get(name)) for name in self.rewards[:visible_rewards]]
        return [
            str(episode.number),
            one_line(episode.question),
            *rewards,
            f"★{episode.preferences}" if episode.preferences else "",
            gain_label(episode.best_gain),
            problem_flags(episode),
        ]

    def _show_status(self, count: int) -> None:
        order = self.orders()[self._order_index()][0]
        parts = [
            f"{count:,} of {plural(self.count, 'episode')}",
            self.selection.describe(),
            order,
        ]
        result = self.result
        if result is not None and result.searched < result.total:
            parts.append(f"searched {result.searched:,} of {result.total:,} …")
        if not self.count:
            parts = [self.run.problem or "No episodes yet: each batch is stored when it ends."]
        self.query_one("#about", Static).update(Content(" · ".join(parts)))
        warning = self.warnings.get(self.selection.where.node) if self.selection.where.node else ""
        about_node = self.query_one("#warning", Static)
        about_node.update(Content(warning or ""))
        about_node.display = bool(warning)

    # Filter, order, search

    def orders(self) -> list[tuple[str, Order]]:
        """All orders, with their names."""
        orders = [("newest first", NEWEST_FIRST), ("oldest first", Order())]
        orders.append(("highest gain first", Order("gain", descending=True)))
        orders.append(("most preferences first", Order("preferences", descending=True)))
        for name in self.rewards:
            orders.append((f"lowest {name} first", Order("reward", name)))
            orders.append((f"highest {name} first", Order("reward", name, descending=True)))
        orders.append(("most steps first", Order("steps", descending=True)))
        return orders

    def _order_index(self) -> int:
        orders = [order for _, order in self.orders()]
        return orders.index(self.selection.order) if self.selection.order in orders else 0

    @work
    async def action_sort(self) -> None:
        names = [name for name, _ in self.orders()]
        chosen = await self.app.push_screen_wait(ChooseOne("Sort", names, self._order_index()))
        if chosen is not None:
            self._select(replace(self.selection, order=self.orders()[chosen][1]))

    @work
    async def action_filter(self) -> None:
        reader = self.run.reader
        nodes = [] if reader is None else [node.node for node in reader.node_summary()]
        choices = [
            Choice("preference", True, "with a preference"),
            Choice("preference", False, "without a preference"),
            Choice("failed", True, "failed"),
            Choice("failed", False, "not failed"),
            Choice("truncated", True, "a truncated output"),
            Choice("truncated", False, "no truncated output"),
            *(
                Choice("outcome", o, f"a rollout: {badge.symbol} {badge.word}")
                for o, badge in OUTCOMES.items()
            ),
            *(Choice("node", node, f"of node {node}") for node in nodes),
        ]
        ticked = {
            key: value for key, value in asdict(self.selection.where).items() if value is not None
        }
        chosen = await self.app.push_screen_wait(ChooseMany("Filter", choices, ticked))
        where = Filter(**chosen)  # type: ignore[arg-type]
        if where != self.selection.where:
            self._select(replace(self.selection, where=where))

    def action_search(self) -> None:
        search = self.query_one(Input)
        search.display = True
        search.value = self.selection.text
        search.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._close_search()
        if event.value != self.selection.text:
            self._select(replace(self.selection, text=event.value))

    def _close_search(self) -> None:
        self.query_one(Input).display = False
        self.query_one(LazyTable).focus()

    def action_back(self) -> None:
        """Close the search, then clear it, then go back to the run."""
        if self.query_one(Input).display:
            self._close_search()
        elif self.selection.text:
            self._select(replace(self.selection, text=""))
        else:
            super().action_back()

    def on_lazy_table_chosen(self, event: LazyTable.Chosen) -> None:
        self.inspector.open_episode(self.run, self.number_at(event.index))

    # Copy and export

    def copy_text(self) -> str:
        rows = self.query_one(LazyTable)
        if not rows.count or self.run.reader is None:
            return ""
        (episode,) = self.run.reader.summaries([self.number_at(rows.cursor)])
        return f"{episode.number}\t{episode.example_id}\t{episode.question}"

    def export(self) -> ScreenExport:
        store = self.run.directory.store_path
        count = self.query_one(LazyTable).count
        numbers = [self.number_at(index) for index in range(count)]

        def records() -> Any:
            with RunReader(store) as reader:
                for first in range(0, count, _CHUNK):
                    yield from reader.summaries(numbers[first : first + _CHUNK])

        def markdown() -> str:
            heads = ["episode", "question", *self.rewards, "preferences", "best gain"]
            rows = (
                [str(e.number), e.question]
                + [number(e.rewards.get(name)) for name in self.rewards]
                + [str(e.preferences), signed(e.best_gain)]
                for e in records()
            )
            return f"# {self.run.name}: {self.selection.describe()}\n\n{table(heads, rows)}"

        return ScreenExport(
            f"{self.run.name}-episodes", plural(count, "episode"), records, markdown
        )
