"""A place for text that depends on how wide it is."""

from __future__ import annotations

from textual.containers import VerticalScroll
from textual.message import Message


class Pane(VerticalScroll, can_focus=False):
    """Scrolls, and says when it has another width; keys stay with the table beside it."""

    class Resized(Message):
        """The pane has another width."""

    def on_resize(self) -> None:
        self.post_message(self.Resized())
