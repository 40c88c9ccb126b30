"""Episode: its steps, their alternatives, and the preferences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from ...flow.errors import FlowtuneError
from ...runs.episode_json import episode_json, rollout_json, step_json
from ...runs.records import EpisodeRecord, RolloutRecord, StepRecord
from ...runs.serialization import to_json, visible
from ..explanations import endings_of, preference_of
from ..formatting import number, one_line
from ..open_run import OpenRun
from ..screen_export import (
    ScreenExport,
    alternative_text,
    episode_markdown,
    rollout_markdown,
    step_markdown,
)
from ..symbols import PREFERENCE, outcome_label
from ..widgets.detail import rollout_detail, step_detail
from ..widgets.lazy_table import Column, LazyTable, Row
from ..widgets.pane import Pane
from ..widgets.title_bar import TitleBar
from .base import COMMON_BINDINGS, InspectScreen

Entry = StepRecord | RolloutRecord
"""A line of the timeline: a step, or below it a rollout from one of its alternatives."""


class EpisodeScreen(InspectScreen):
    """The timeline on the left, the details of the selected entry on the right."""

    HELP = "Episode: what did each step say, which alternatives were tried, and what came of them?"
    DEFAULT_CSS = """
    EpisodeScreen {
        #about { height: auto; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
        #parts { height: 1fr; }
        LazyTable { width: 40%; min-width: 32; border-right: vkey $panel; }
        Pane { width: 1fr; padding: 0 1; }
        &.zoomed LazyTable { display: none; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "deviation(1)", "Next"),
        Binding("p", "deviation(-1)", "Prev"),
        Binding("d", "diff", "Diff"),
        Binding("r", "raw", "Raw"),
        Binding("space,pagedown", "page(1)", "Scroll the text", show=False),
        Binding("b,pageup", "page(-1)", "Scroll the text back", show=False),
        *COMMON_BINDINGS,
    ]

    def __init__(self, run: OpenRun, number: int) -> None:
        super().__init__()
        self.run, self.number = run, number
        self.episode: EpisodeRecord | None = None
        self.entries: list[Entry] = []
        self.diff = False

    def body(self) -> ComposeResult:
        yield Static(id="about", markup=False)
        with Horizontal(id="parts"):
            yield LazyTable()
            with Pane():
                yield Static(id="detail", markup=False)

    def poll(self) -> object:
        return None  # a stored episode does not change

    def update(self) -> None:
        where = [self.run.name, f"episode {self.number}"]
        self.query_one(TitleBar).show(where, self.run.info, following=self.inspector.following)
        try:
            assert self.run.reader is not None
            self.episode = self.run.reader.episode(self.number)
        except FlowtuneError as error:  # a resumed run has deleted it
            self.query_one("#about", Static).update(Content(str(error)))
            return
        self.entries = _timeline(self.episode)
        self.query_one("#about", Static).update(_about(self.episode))
        longest = max((len(step.node) for step in self.episode.steps), default=0)
        columns = [Column("step", max(12, min(16, longest + 3))), Column("output")]
        self.query_one(LazyTable).show(columns, len(self.entries), self._load)
        self._show_detail()

    def on_pane_resized(self) -> None:
        self._show_detail()

    def _load(self, first: int, last: int) -> Sequence[Row]:
        return [self._row(entry) for entry in self.entries[first:last]]

    def _row(self, entry: Entry) -> Row:
        assert self.episode is not None
        if isinstance(entry, StepRecord):
            cut = Content.assemble(("CUT ", "$text-warning")) if entry.truncated else Content("")
            what = Content.assemble((f"{entry.index} {entry.node}", "bold"))
            return [what, cut + Content(one_line(entry.output) or "(nothing)")]
        star = PREFERENCE.symbol if preference_of(self.episode, entry) else " "
        mark = (star, PREFERENCE.style)
        ending = f".{entry.ending}" if len(endings_of(self.episode, entry)) > 1 else ""
        return [
            Content.assemble(f" └{entry.alternative}{ending} ", mark, outcome_label(entry)),
            Content.assemble(
                (one_line(alternative_text(self.episode, entry)) or "(nothing)", "$text-muted")
            ),
        ]

    def _show_detail(self) -> None:
        if self.episode is None or not self.entries or not self.is_attached:
            return
        entry = self.entries[self.query_one(LazyTable).cursor]
        if isinstance(entry, StepRecord):
            content = step_detail(self.episode, entry)
        else:
            width = self.query_one(Pane).scrollable_content_region.width
            content = rollout_detail(self.episode, entry, diff=self.diff, width=width or 48)
        self.query_one("#detail", Static).update(content)

    def on_lazy_table_moved(self) -> None:
        self.query_one(Pane).scroll_home(animate=False)
        self._show_detail()

    def on_lazy_table_chosen(self) -> None:
        self.add_class("zoomed")
        self.set_focus(None)

    def action_back(self) -> None:
        """Go back from the wide view to the timeline, then to the list."""
        if self.has_class("zoomed"):
            self.remove_class("zoomed")
            self.query_one(LazyTable).focus()
        else:
            super().action_back()

    def action_deviation(self, by: int) -> None:
        rows = self.query_one(LazyTable)
        ahead = range(rows.cursor + by, len(self.entries) if by > 0 else -1, by)
        for index in ahead:
            if isinstance(self.entries[index], RolloutRecord):
                rows.cursor = index
                return
        self.notify("No further deviation in this direction.", timeout=2)

    def action_diff(self) -> None:
        self.diff = not self.diff
        self._show_detail()

    def action_page(self, by: int) -> None:
        scroll = self.query_one(Pane)
        scroll.scroll_relative(y=by * max(1, scroll.size.height - 1), animate=False)

    def action_raw(self) -> None:
        if self.episode is None or not self.entries:
            return
        entry = self.entries[self.query_one(LazyTable).cursor]
        name = f"step {entry.index}" if isinstance(entry, StepRecord) else f"rollout {entry.number}"
        record = step_json(entry) if isinstance(entry, StepRecord) else rollout_json(entry)
        records = [(name, record), (f"episode {self.number}", episode_json(self.episode))]
        self.inspector.open_raw(f"{self.run.name} episode {self.number}", records)

    def copy_text(self) -> str:
        if self.episode is None or not self.entries:
            return ""
        entry = self.entries[self.query_one(LazyTable).cursor]
        if isinstance(entry, StepRecord):
            return step_markdown(self.episode, entry)
        return rollout_markdown(self.episode, entry)

    def export(self) -> ScreenExport:
        episode = self.episode
        name = f"{self.run.name}-episode-{self.number}"
        if episode is None:
            return ScreenExport(name, "nothing", list, lambda: "")
        return ScreenExport(
            name,
            f"episode {self.number}",
            lambda: [episode_json(episode)],
            lambda: episode_markdown(self.run.name, episode),
        )


def _timeline(episode: EpisodeRecord) -> list[Entry]:
    """Each step followed by its rollouts."""
    entries: list[Entry] = []
    for step in episode.steps:
        entries.append(step)
        entries += [rollout for rollout in episode.rollouts if rollout.step == step.index]
    return entries


def _about(episode: EpisodeRecord) -> Content:
    means: dict[str, list[float]] = {}
    for reward in episode.rewards:
        means.setdefault(reward.name, []).extend([] if reward.value is None else [reward.value])
    rewards = [
        f"{name} {number(sum(values) / len(values) if values else None)}"
        for name, values in means.items()
    ]
    result = f"result {to_json(episode.result)}"
    if episode.error is not None:
        result = f"FAILED {one_line(episode.error)}"
    lines = [
        Content.assemble((one_line(episode.question), "bold")),
        Content(visible(f"gold   {to_json(episode.gold)}")),
        Content(visible(result)),
        Content("  ".join(rewards)),
    ]
    return Content("\n").join(lines)
