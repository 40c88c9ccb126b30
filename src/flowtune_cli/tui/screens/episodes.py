"""Episodes: find the ones that tell something, by filter, order and text."""

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
from ...runs.stored import EpisodeSummary, Filter, Order
from ..badges import OUTCOMES, flags, gain
from ..dialogs.choices import Choice, ChooseMany, ChooseOne
from ..export import Export, table
from ..figures import number, one_line, plural, shortened, signed
from ..listing import NEWEST, Found, Wanted, query
from ..watched import Watched
from ..widgets.rows import Column, Row, Rows
from ..widgets.title_bar import TitleBar
from .base import COMMON, InspectScreen

_CHUNK = 500


class EpisodesScreen(InspectScreen):
    """All episodes, or those that are wanted; the newest first unless sorted otherwise."""

    ANSWERS = "Episodes: which ones are worth a look? gain = the most that an alternative won."
    DEFAULT_CSS = """
    EpisodesScreen {
        Rows { height: 1fr; }
        #about { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
        Input { padding: 0 1; display: none; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f", "filter", "Filter"),
        Binding("slash", "search", "Search", key_display="/"),
        Binding("s", "sort", "Sort"),
        *COMMON,
    ]

    def __init__(self, run: Watched, where: Filter) -> None:
        super().__init__()
        self.run = run
        self.wanted = Wanted(where)
        self.found: Found | None = None
        self.count = 0
        self.rewards: list[str] = []

    def body(self) -> ComposeResult:
        yield Static(id="about")
        yield Rows()
        search = Input(placeholder="text in questions, prompts and outputs", compact=True)
        search.cursor_blink = False
        yield search

    def look(self) -> object:
        return self.run.refresh()

    def update(self) -> None:
        self.run.refresh()
        where = [self.run.name, "episodes"]
        self.query_one(TitleBar).show(where, self.run.info, following=self.inspector.following)
        if self.run.reader is not None:
            self.count = self.run.reader.counts().episodes
            self.rewards = list(self.run.reader.metrics(1))
        if self.wanted.everything:
            self._show()
        else:
            self._find(self.wanted, self.found)

    # The list

    def number_at(self, index: int) -> int:
        if self.wanted.everything:
            return self.count - 1 - index
        assert self.found is not None
        return self.found.numbers[index]

    def _want(self, wanted: Wanted) -> None:
        self.wanted, self.found = wanted, None
        self.query_one(Rows).show((), 0, lambda a, b: (), 0)
        self.update()

    @work(thread=True, exclusive=True, group="query", exit_on_error=True)
    def _find(self, wanted: Wanted, before: Found | None) -> None:
        worker = get_current_worker()

        def tell(found: Found) -> bool:
            if not worker.is_cancelled:
                self.app.call_from_thread(self._take, wanted, found)
            return not worker.is_cancelled

        query(self.run.directory.store_path, wanted, before, tell)

    def _take(self, wanted: Wanted, found: Found) -> None:
        if wanted == self.wanted and self.is_attached:
            self.found = found
            self._show()

    def _show(self) -> None:
        rows = self.query_one(Rows)
        count = (
            self.count if self.wanted.everything else len(self.found.numbers if self.found else ())
        )
        # The cursor stays on its episode when others come in front of it, but for the first row.
        cursor = None
        if rows.count and rows.cursor and self._newest_first:
            cursor = rows.cursor + max(0, count - rows.count)
            if self.found is not None and self.found.searched < self.found.total:
                cursor = None
        rows.show(self._columns(), count, self._load, cursor)
        self._tell(count)

    @property
    def _newest_first(self) -> bool:
        return self.wanted.order == NEWEST

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
        shown = len(self._columns()) - 5
        rewards = [number(episode.rewards.get(name)) for name in self.rewards[:shown]]
        return [
            str(episode.number),
            one_line(episode.question),
            *rewards,
            f"★{episode.preferences}" if episode.preferences else "",
            gain(episode.best_gain),
            flags(episode),
        ]

    def _tell(self, count: int) -> None:
        order = self.orders()[self._order_index()][0]
        parts = [f"{count:,} of {plural(self.count, 'episode')}", self.wanted.describe(), order]
        found = self.found
        if found is not None and found.searched < found.total:
            parts.append(f"searched {found.searched:,} of {found.total:,} …")
        if not self.count:
            parts = [self.run.problem or "No episode is stored yet; they come a batch at a time."]
        self.query_one("#about", Static).update(Content(" · ".join(parts)))

    # Filter, order, search

    def orders(self) -> list[tuple[str, Order]]:
        """Every order by its name."""
        orders = [("newest first", NEWEST), ("oldest first", Order())]
        orders.append(("greatest gain first", Order("gain", descending=True)))
        orders.append(("most preferences first", Order("preferences", descending=True)))
        for name in self.rewards:
            orders.append((f"lowest {name} first", Order("reward", name)))
            orders.append((f"highest {name} first", Order("reward", name, descending=True)))
        orders.append(("most steps first", Order("steps", descending=True)))
        return orders

    def _order_index(self) -> int:
        orders = [order for _, order in self.orders()]
        return orders.index(self.wanted.order) if self.wanted.order in orders else 0

    @work
    async def action_sort(self) -> None:
        names = [name for name, _ in self.orders()]
        chosen = await self.app.push_screen_wait(ChooseOne("Sort", names, self._order_index()))
        if chosen is not None:
            self._want(replace(self.wanted, order=self.orders()[chosen][1]))

    @work
    async def action_filter(self) -> None:
        reader = self.run.reader
        nodes = [] if reader is None else [node.node for node in reader.node_summary()]
        choices = [
            Choice("preference", True, "with a preference"),
            Choice("preference", False, "without a preference"),
            Choice("failed", True, "failed"),
            Choice("failed", False, "not failed"),
            Choice("truncated", True, "an output cut off"),
            Choice("truncated", False, "no output cut off"),
            *(
                Choice("outcome", o, f"a rollout: {badge.symbol} {badge.word}")
                for o, badge in OUTCOMES.items()
            ),
            *(Choice("node", node, f"of node {node}") for node in nodes),
        ]
        ticked = {
            key: value for key, value in asdict(self.wanted.where).items() if value is not None
        }
        chosen = await self.app.push_screen_wait(ChooseMany("Filter", choices, ticked))
        where = Filter(**chosen)  # type: ignore[arg-type]
        if where != self.wanted.where:
            self._want(replace(self.wanted, where=where))

    def action_search(self) -> None:
        search = self.query_one(Input)
        search.display = True
        search.value = self.wanted.text
        search.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._close_search()
        if event.value != self.wanted.text:
            self._want(replace(self.wanted, text=event.value))

    def _close_search(self) -> None:
        self.query_one(Input).display = False
        self.query_one(Rows).focus()

    def action_back(self) -> None:
        """Out of the search, then out of what it and the filter left, then to the run."""
        if self.query_one(Input).display:
            self._close_search()
        elif self.wanted.text:
            self._want(replace(self.wanted, text=""))
        else:
            super().action_back()

    def on_rows_chosen(self, event: Rows.Chosen) -> None:
        self.inspector.open_episode(self.run, self.number_at(event.index))

    # Copy and export

    def copied(self) -> str:
        rows = self.query_one(Rows)
        if not rows.count or self.run.reader is None:
            return ""
        (episode,) = self.run.reader.summaries([self.number_at(rows.cursor)])
        return f"{episode.number}\t{episode.example_id}\t{episode.question}"

    def export(self) -> Export:
        store = self.run.directory.store_path
        count = self.query_one(Rows).count
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
            return f"# {self.run.name}: {self.wanted.describe()}\n\n{table(heads, rows)}"

        return Export(f"{self.run.name}-episodes", plural(count, "episode"), records, markdown)
