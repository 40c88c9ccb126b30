"""The help dialog: what a screen shows, its keys, and the symbols."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from ..symbols import LEGEND


class Help(ModalScreen[None]):
    """Scrolls with the arrow keys; escape, enter, q and ? close it."""

    DEFAULT_CSS = """
    Help {
        align: center middle;
        & > VerticalScroll {
            width: 76; max-width: 100%; height: 90%; padding: 0 2;
            background: $surface; border: round $primary;
        }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "dismiss", "Close"),
        Binding("j", "scroll(1)", show=False),
        Binding("k", "scroll(-1)", show=False),
    ]

    def __init__(self, answers: str, keys: list[tuple[str, str]]) -> None:
        super().__init__()
        self.answers, self.keys = answers, keys

    def compose(self) -> ComposeResult:
        lines = [Content.assemble((self.answers, "bold")), Content("")]
        lines += [_line(*key, width=18) for key in self.keys]
        lines += [Content(""), Content.assemble(("Symbols", "bold"))]
        lines += [_line(*entry, width=18) for entry in LEGEND]
        with VerticalScroll() as scroll:
            scroll.border_title = "Help"
            scroll.border_subtitle = "esc closes"
            yield Static(Content("\n").join(lines))

    def action_scroll(self, by: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)


def _line(key: str, meaning: str, *, width: int) -> Content:
    return Content.assemble((f"{key:<{width}}", "$text-accent bold"), meaning)
