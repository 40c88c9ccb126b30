"""What all screens share: keys, the title, following a live run, copying and exporting."""

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
from ..export import Export
from ..widgets.rows import Rows
from ..widgets.title_bar import TitleBar

if TYPE_CHECKING:
    from ..app import InspectApp

EVERY = 1.0
"""Seconds from one look at a live run to the next."""


COMMON: list[BindingType] = [
    Binding("t", "follow", "Live"),
    Binding("y", "copy", "Copy"),
    Binding("e", "export", "Export"),
    Binding("question_mark", "help", "Help", key_display="?"),
    Binding("escape", "back", "Back"),
    Binding("q", "app.quit", "Quit"),
]
"""The keys of every screen. Each lists its own before them, as the footer shows them in order."""


class InspectScreen(Screen[None]):
    """A screen of ``flowtune inspect``; each answers one question."""

    ANSWERS: ClassVar[str]
    _seen: object = None

    def compose(self) -> ComposeResult:
        yield TitleBar()
        yield from self.body()
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.set_interval(EVERY, self._look_again)
        self.update()

    def on_screen_resume(self) -> None:
        if self.is_mounted:
            self.update()

    # What a screen says

    def body(self) -> Sequence[Widget] | ComposeResult:
        """What stands between title and footer."""
        raise NotImplementedError

    def update(self) -> None:
        """Show what is stored now."""
        raise NotImplementedError

    def look(self) -> object:
        """Look again; gives something that is another one if there is something new to show."""
        raise NotImplementedError

    def copied(self) -> str:
        """What ``y`` copies."""
        raise NotImplementedError

    def export(self) -> Export:
        """What ``e`` writes."""
        raise NotImplementedError

    # What all do

    @property
    def inspector(self) -> InspectApp:
        return cast("InspectApp", self.app)

    def _look_again(self) -> None:
        if self.app.screen is self and self.inspector.following:
            seen = self.look()
            if seen != self._seen:
                self._seen = seen
                self.update()

    def action_back(self) -> None:
        self.inspector.back()

    def action_follow(self) -> None:
        self.inspector.following = not self.inspector.following
        self.update()

    def action_help(self) -> None:
        declared = [*self.BINDINGS, *(Rows.BINDINGS if self.query(Rows) else ())]
        keys: dict[str, list[str]] = {}
        for binding in Binding.make_bindings(declared):
            if binding.description:
                keys.setdefault(binding.description, []).append(self.app.get_key_display(binding))
        keys["Command palette"] = ["^p"]
        self.app.push_screen(
            Help(self.ANSWERS, [(" ".join(keys), what) for what, keys in keys.items()])
        )

    def action_copy(self) -> None:
        text = self.copied()
        self.app.copy_to_clipboard(text)
        self.notify(f"Copied {len(text.splitlines())} lines.", timeout=2)

    @work
    async def action_export(self) -> None:
        export = self.export()
        path = await self.app.push_screen_wait(AskPath(export.what, Path(f"{export.name}.md")))
        if path is not None:
            self._write(export, path)

    @work(thread=True)
    def _write(self, export: Export, path: Path) -> None:
        try:
            export.write(path)
        except FlowtuneError as error:
            self.app.call_from_thread(self.notify, str(error), severity="error", markup=False)
        else:
            done = f"Wrote {export.what} to {path.resolve()}"
            self.app.call_from_thread(self.notify, done, markup=False)
