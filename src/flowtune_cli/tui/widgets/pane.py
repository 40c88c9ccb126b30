"""A scrollable pane for text that depends on its width."""

from __future__ import annotations

from textual.containers import VerticalScroll
from textual.message import Message


class Pane(VerticalScroll, can_focus=False):
    """Scrolls, and posts ``Resized``; the table beside it keeps the focus."""

    class Resized(Message):
        """The width of the pane changed."""

    def on_resize(self) -> None:
        self.post_message(self.Resized())
