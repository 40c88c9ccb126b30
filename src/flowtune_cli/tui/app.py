"""The application: which screens there are, how one gets from one to the next, and what all know.

``cli/inspect.py`` starts it. It reads through ``runs/reader.py`` alone, and writes nothing but what
``e`` exports.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.reactive import reactive
from textual.screen import Screen

from ..runs.stored import Filter
from .screens.base import InspectScreen
from .screens.compare import CompareScreen
from .screens.episode import EpisodeScreen
from .screens.episodes import EpisodesScreen
from .screens.overview import OverviewScreen
from .screens.raw import RawScreen
from .screens.runs import RunsScreen
from .watched import Watched


class InspectApp(App[None]):
    """Opens the runs of a directory, or one run.

    Args:
        path: a run's directory, or one of runs.
        is_run: which of both.
    """

    TITLE = "flowtune inspect"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "quit", "Quit", show=False)]
    CSS = """
    InspectScreen { background: $surface; }
    Footer { background: $panel; }
    * {
        scrollbar-size-vertical: 1; scrollbar-background: $surface; scrollbar-color: $primary-muted;
        scrollbar-background-hover: $surface; scrollbar-background-active: $surface;
    }
    """
    following: reactive[bool] = reactive(False)

    def __init__(self, path: Path, *, is_run: bool) -> None:
        super().__init__()
        self.path, self.is_run = path, is_run
        self._runs: dict[Path, Watched] = {}

    def on_mount(self) -> None:
        first: InspectScreen = RunsScreen(self.path)
        if self.is_run:
            run = self.watched(self.path)
            self.following = run.live
            first = OverviewScreen(run)
        self.push_screen(first)

    def on_unmount(self) -> None:
        for run in self._runs.values():
            run.close()

    def watched(self, path: Path) -> Watched:
        """The run in this directory, opened once."""
        if path not in self._runs:
            self._runs[path] = Watched(path)
        return self._runs[path]

    # The way from trend to record

    def open_run(self, path: Path) -> None:
        run = self.watched(path)
        self.following = run.live
        self.push_screen(OverviewScreen(run))

    def open_compared(self, one: Path, other: Path) -> None:
        self.push_screen(CompareScreen(self.watched(one), self.watched(other)))

    def open_episodes(self, run: Watched, where: Filter) -> None:
        self.push_screen(EpisodesScreen(run, where))

    def open_episode(self, run: Watched, number: int) -> None:
        self.push_screen(EpisodeScreen(run, number))

    def open_raw(self, title: str, records: Sequence[tuple[str, object]]) -> None:
        self.push_screen(RawScreen(title, records))

    def back(self) -> None:
        """To the screen before; the first one stays."""
        if len(self.screen_stack) > 2:  # beneath the first lies the app's own, which is empty
            self.pop_screen()

    def get_system_commands(self, screen: Screen) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        if isinstance(screen, InspectScreen):
            yield SystemCommand(
                "Help", "What this screen answers, and its keys", screen.action_help
            )
            yield SystemCommand("Export", "Write what is shown to a file", screen.action_export)
            yield SystemCommand("Copy", "Copy what is shown", screen.action_copy)
            yield SystemCommand("Follow", "Follow a live run, or stop", screen.action_follow)
