"""The base of all screens: common keys, title, following a live run, copy and export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer

from ...flow.errors import FlowtuneError
from ..dialogs.ask_path import AskPath
from ..dialogs.help import Help
from ..screen_export import ScreenExport
from ..widgets.lazy_table import LazyTable
from ..widgets.title_bar import TitleBar

if TYPE_CHECKING:
    from ..app import InspectApp

POLL_SECONDS = 1.0
"""Between two reads of a live run."""

COMMON_BINDINGS: list[BindingType] = [
    Binding("t", "follow", "Live"),
    Binding("y", "copy", "Copy"),
    Binding("e", "export", "Export"),
    Binding("question_mark", "help", "Help", key_display="?"),
    Binding("escape", "back", "Back"),
    Binding("q", "app.quit", "Quit"),
]
"""The keys of every screen. A screen lists its own keys first, since the footer keeps the order."""


class InspectScreen(Screen[None]):
    """A screen of ``flowtune inspect``; each answers one question."""

    HELP: ClassVar[str]
    _last_poll: object = None

    def compose(self) -> ComposeResult:
        yield TitleBar()
        yield from self.body()
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.set_interval(POLL_SECONDS, self._poll)
        self.update()

    def on_screen_resume(self) -> None:
        if self.is_mounted:
            self.update()

    # To implement

    def body(self) -> Sequence[Widget] | ComposeResult:
        """The widgets between title and footer."""
        raise NotImplementedError

    def update(self) -> None:
        """Read the run and show it."""
        raise NotImplementedError

    def poll(self) -> object:
        """Read the run again; the returned value changes if there is something new to show."""
        raise NotImplementedError

    def copy_text(self) -> str:
        """The text that ``y`` copies."""
        raise NotImplementedError

    def export(self) -> ScreenExport:
        """The content that ``e`` writes."""
        raise NotImplementedError

    # Common to all

    @property
    def inspector(self) -> InspectApp:
        return cast("InspectApp", self.app)

    def _poll(self) -> None:
        if self.app.screen is self and self.inspector.following:
            state = self.poll()
            if state != self._last_poll:
                self._last_poll = state
                self.update()

    def action_back(self) -> None:
        self.inspector.back()

    def action_follow(self) -> None:
        self.inspector.following = not self.inspector.following
        self.update()

    def action_help(self) -> None:
        declared = [*self.BINDINGS, *(LazyTable.BINDINGS if self.query(LazyTable) else ())]
        keys: dict[str, list[str]] = {}
        for binding in Binding.make_bindings(declared):
            if binding.description:
                keys.setdefault(binding.description, []).append(self.app.get_key_display(binding))
        keys["Command palette"] = ["^p"]
        self.app.push_screen(
            Help(self.HELP, [(" ".join(keys), what) for what, keys in keys.items()])
        )

    def action_copy(self) -> None:
        text = self.copy_text()
        self.app.copy_to_clipboard(text)
        self.notify(f"Copied {len(text.splitlines())} lines.", timeout=2)

    @work
    async def action_export(self) -> None:
        export = self.export()
        path = await self.app.push_screen_wait(AskPath(export.what, Path(f"{export.name}.md")))
        if path is not None:
            self._write(export, path)

    @work(thread=True)
    def _write(self, export: ScreenExport, path: Path) -> None:
        try:
            export.write(path)
        except FlowtuneError as error:
            self.app.call_from_thread(self.notify, str(error), severity="error", markup=False)
        else:
            done = f"Wrote {export.what} to {path.resolve()}"
            self.app.call_from_thread(self.notify, done, markup=False)
