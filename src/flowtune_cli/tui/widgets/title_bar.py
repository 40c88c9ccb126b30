"""The first line of every screen: the path to it, and the state of the run."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from ...runs.directory import RunInfo
from ..symbols import STATES, Badge


class TitleBar(Horizontal):
    """The path on the left, the state of the run on the right."""

    DEFAULT_CSS = """
    TitleBar {
        height: 1; background: $panel; padding: 0 1;
        & > .title-where { width: 1fr; text-wrap: nowrap; text-overflow: ellipsis; }
        & > .title-state { width: auto; padding-left: 2; }
    }
    """

    def compose(self) -> ComposeResult:
        yield Static(classes="title-where")
        yield Static(classes="title-state")

    def show(
        self, where: list[str], info: RunInfo | None = None, *, following: bool = False
    ) -> None:
        *parents, last = ["flowtune", *where]
        trail = "".join(f"{part} › " for part in parents)
        title = Content.assemble((trail, "$text-muted"), (last, "bold"))
        self.query_one(".title-where", Static).update(title)
        state = Content("")
        if info is not None:
            state = STATES.get(info.state, Badge("?", info.state, "")).content
        if following:
            state = Content.assemble(state, ("  ↻ following", "$text-accent"))
        self.query_one(".title-state", Static).update(state)
