"""The Textual application: its screens, the navigation between them, and the runs that are open.

``cli/inspect.py`` starts it. It reads through ``runs/reader.py`` and writes only exports (key
``e``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.reactive import reactive
from textual.screen import Screen

from ..runs.records import Filter
from .open_run import OpenRun
from .screens.base import InspectScreen
from .screens.compare import CompareScreen
from .screens.episode import EpisodeScreen
from .screens.episodes import EpisodesScreen
from .screens.overview import OverviewScreen
from .screens.raw import RawScreen
from .screens.runs import RunsScreen


class InspectApp(App[None]):
    """Opens the runs of a directory, or one run.

    Args:
        path: the directory of a run, or a directory of runs.
        is_run: whether it is a run.
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
        self._runs: dict[Path, OpenRun] = {}

    def on_mount(self) -> None:
        first: InspectScreen = RunsScreen(self.path)
        if self.is_run:
            run = self.open_store(self.path)
            self.following = run.live
            first = OverviewScreen(run)
        self.push_screen(first)

    def on_unmount(self) -> None:
        for run in self._runs.values():
            run.close()

    def open_store(self, path: Path) -> OpenRun:
        """The run in this directory, opened at most once."""
        if path not in self._runs:
            self._runs[path] = OpenRun(path)
        return self._runs[path]

    # Navigation

    def open_run(self, path: Path) -> None:
        run = self.open_store(path)
        self.following = run.live
        self.push_screen(OverviewScreen(run))

    def open_comparison(self, runs: Sequence[Path]) -> None:
        self.push_screen(CompareScreen(*map(self.open_store, runs)))

    def open_episodes(self, run: OpenRun, where: Filter) -> None:
        self.push_screen(EpisodesScreen(run, where))

    def open_episode(self, run: OpenRun, number: int) -> None:
        self.push_screen(EpisodeScreen(run, number))

    def open_raw(self, title: str, records: Sequence[tuple[str, object]]) -> None:
        self.push_screen(RawScreen(title, records))

    def back(self) -> None:
        """Go to the previous screen; the first one stays."""
        if len(self.screen_stack) > 2:  # the app's own empty screen is below the first one
            self.pop_screen()

    def get_system_commands(self, screen: Screen) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        if isinstance(screen, InspectScreen):
            yield SystemCommand("Help", "What this screen shows, and its keys", screen.action_help)
            yield SystemCommand("Export", "Write the content to a file", screen.action_export)
            yield SystemCommand("Copy", "Copy the content", screen.action_copy)
            yield SystemCommand("Follow", "Follow a live run on or off", screen.action_follow)
