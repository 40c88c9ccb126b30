"""Raw: a stored record as JSON, every field of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import TextArea

from ...runs.serialization import from_json, to_json, visible
from ..screen_export import ScreenExport, fenced
from ..widgets.title_bar import TitleBar
from .base import COMMON_BINDINGS, InspectScreen


class RawScreen(InspectScreen):
    """Records as JSON; ``r`` shows the next one, such as the episode of the step."""

    HELP = "Raw: the stored record as JSON."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "next", "Step or episode"),
        Binding("j", "scroll(1)", show=False),
        Binding("k", "scroll(-1)", show=False),
        *COMMON_BINDINGS,
    ]

    def __init__(self, title: str, records: Sequence[tuple[str, object]]) -> None:
        super().__init__()
        self.where, self.records, self.at = title, records, 0

    def body(self) -> ComposeResult:
        yield TextArea(read_only=True, show_line_numbers=False, soft_wrap=True, compact=True)

    def poll(self) -> object:
        return None

    def update(self) -> None:
        name, _ = self.records[self.at]
        self.query_one(TitleBar).show([self.where, f"raw {name}"])
        self.query_one(TextArea).load_text(visible(self.copy_text()))

    def copy_text(self) -> str:
        record = from_json(to_json(self.records[self.at][1]))
        return json.dumps(record, indent=2, ensure_ascii=False)

    def action_next(self) -> None:
        self.at = (self.at + 1) % len(self.records)
        self.update()

    def action_scroll(self, by: int) -> None:
        self.query_one(TextArea).scroll_relative(y=by, animate=False)

    def export(self) -> ScreenExport:
        name, record = self.records[self.at]
        text = self.copy_text()
        safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in f"{self.where}-{name}")
        return ScreenExport(safe, name, lambda: [record], lambda: fenced(text))
