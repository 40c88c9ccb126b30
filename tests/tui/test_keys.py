"""Every key does what the footer says."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static, TextArea

from flowtune_cli.flow.deviation import Outcome
from flowtune_cli.runs.records import Filter, RolloutRecord
from flowtune_cli.tui.app import InspectApp
from flowtune_cli.tui.dialogs.help import Help
from flowtune_cli.tui.screens.compare import CompareScreen
from flowtune_cli.tui.screens.episode import EpisodeScreen
from flowtune_cli.tui.screens.episodes import EpisodesScreen
from flowtune_cli.tui.screens.overview import OverviewScreen
from flowtune_cli.tui.screens.raw import RawScreen
from flowtune_cli.tui.screens.runs import RunsScreen
from flowtune_cli.tui.widgets.lazy_table import LazyTable
from flowtune_cli.tui.widgets.pane import Pane
from report.stored_runs import sums_run
from tui.conftest import press, settle, text_of, until

Script = Callable[[Pilot[None]], Awaitable[None]]


def run(app: InspectApp, script: Script, size: tuple[int, int] = (80, 24)) -> None:
    async def main() -> None:
        async with app.run_test(size=size, notifications=True) as pilot:
            await settle(pilot)
            await script(pilot)

    asyncio.run(main())


def cursor(app: InspectApp) -> int:
    return app.screen.query_one(LazyTable).cursor


def about(app: InspectApp) -> str:
    return str(app.screen.query_one("#about", Static).content)


def listed(app: InspectApp) -> list[int]:
    assert isinstance(app.screen, EpisodesScreen)
    return [app.screen.number_at(i) for i in range(app.screen.query_one(LazyTable).count)]


def test_moving(app: InspectApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, "o")
        for key, row in [
            ("j", 1),
            ("down", 2),
            ("k", 1),
            ("up", 0),
            ("up", 0),
            ("G", 35),
            ("j", 35),
            ("g", 0),
            ("end", 35),
            ("home", 0),
            ("pagedown", 19),
            ("pageup", 0),
        ]:
            await press(pilot, key)
            assert cursor(app) == row, key
        assert "▸      35 the sum of 35" in text_of(app)

    run(app, script)


def test_from_trend_to_record_and_back(app: InspectApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        assert isinstance(app.screen, OverviewScreen)
        await press(pilot, "j", "enter")
        assert isinstance(app.screen, EpisodesScreen)
        assert app.screen.selection.where == Filter(node="draw")
        await until(pilot, lambda: "of 36 episodes · node draw" in about(app))
        await press(pilot, "enter")
        assert isinstance(app.screen, EpisodeScreen)
        await press(pilot, "enter")
        assert app.screen.has_class("zoomed")
        await press(pilot, "escape")
        assert not app.screen.has_class("zoomed")
        await press(pilot, "escape")
        assert isinstance(app.screen, EpisodesScreen)
        await press(pilot, "escape", "escape", "escape")
        assert isinstance(app.screen, OverviewScreen)

    run(app, script)


def test_n_and_p_go_from_deviation_to_deviation(app: InspectApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, "o", "enter")
        screen = app.screen
        assert isinstance(screen, EpisodeScreen)
        deviations = [i for i, e in enumerate(screen.entries) if isinstance(e, RolloutRecord)]
        assert len(deviations) > 2
        for expected in [*deviations, deviations[-1]]:
            await press(pilot, "n")
            assert cursor(app) == expected
        for expected in [*deviations[-2::-1], deviations[0]]:
            await press(pilot, "p")
            assert cursor(app) == expected

    run(app, script)


def test_d_shows_the_words_that_differ(app: InspectApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, "o", "enter", "n")
        detail = app.screen.query_one("#detail", Static)
        assert "[+" not in str(detail.content).partition("episode │ rollout")[0]
        await press(pilot, "d")
        assert "[+" in str(detail.content)
        await press(pilot, "d")
        assert "[+" not in str(detail.content)

    run(app, script)


def test_paging_through_a_long_detail(app: InspectApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, "o", "enter")
        pane = app.screen.query_one(Pane)
        assert pane.max_scroll_y > 0
        await press(pilot, "space")
        assert pane.scroll_y > 0
        await press(pilot, "b")
        assert pane.scroll_y == 0

    run(app, script, (80, 16))


def test_r_shows_what_is_stored(app: InspectApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, "o", "enter", "n", "r")
        assert isinstance(app.screen, RawScreen)
        shown = app.screen.query_one(TextArea)
        assert json.loads(shown.text)["alternative"] == 1
        await press(pilot, "r")
        assert json.loads(shown.text)["example"]["question"] == "the sum of 35"
        await press(pilot, "j", "k", "r", "escape")
        assert isinstance(app.screen, EpisodeScreen)

    run(app, script)


def test_filter(app: InspectApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, "o", "f", "down", "down", "enter", "escape")
        await until(pilot, lambda: "failed" in about(app))
        reader = app.open_store(app.path).reader
        assert reader is not None
        failed = list(reader.numbers(Filter(failed=True)))
        assert listed(app) == failed[::-1] != []
        assert "FAIL" in text_of(app)
        # The other tick of the same key takes its place; then none is left.
        await press(pilot, "f", "down", "down", "j", "space", "f")
        await until(pilot, lambda: "not failed" in about(app))
        await until(pilot, lambda: len(listed(app)) == 36 - len(failed))
        await press(pilot, "f", "backspace", "escape")
        await until(pilot, lambda: "36 of 36" in about(app))

    run(app, script)


def test_sort(app: InspectApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, "o", "s", "j", "j", "enter")
        await until(pilot, lambda: "highest gain first" in about(app))
        await until(pilot, lambda: len(listed(app)) == 36)
        reader = app.open_store(app.path).reader
        assert reader is not None
        gains = [e.best_gain for e in reader.summaries(listed(app))]
        known = [gain for gain in gains if gain is not None]
        assert known == sorted(known, reverse=True)
        assert gains[len(known) :] == [None] * (36 - len(known))
        await press(pilot, "s", "escape")
        assert "highest gain first" in about(app)

    run(app, script)


def test_search(app: InspectApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, "o", "slash", *"SUM", "space", *"of", "space", "3", "enter")
        await until(pilot, lambda: "contains “SUM of 3”" in about(app))
        await until(pilot, lambda: listed(app) == [35, 34, 33, 32, 31, 30, 3])
        await press(pilot, "escape")
        await until(pilot, lambda: "36 of 36" in about(app))
        await press(pilot, "slash", "x", "escape")
        assert not app.screen.query_one(Input).display
        assert "36 of 36" in about(app)

    run(app, script)


def test_m_turns_to_the_next_metric(finished: Path, tmp_path: Path) -> None:
    app = InspectApp(finished, is_run=False)

    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, "m")
        assert app.screen.shift == 1  # type: ignore[attr-defined]
        assert "high 0." in text_of(app)

    run(app, script, (120, 34))


def test_compare(finished: Path, tmp_path: Path) -> None:
    finished = shutil.copytree(finished, tmp_path / "runs")
    settings = finished / "second" / "settings.json"
    stored = json.loads(settings.read_text())
    settings.write_text(json.dumps({**stored, "data": {"split": "dev", "held_out": {"n": 1}}}))
    app = InspectApp(finished, is_run=False)

    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, "c")
        assert "[c] second" in text_of(app)
        await press(pilot, "c")
        assert "[c]" not in text_of(app)
        await press(pilot, "c", "j", "c")
        assert isinstance(app.screen, CompareScreen)
        assert "second and first" in text_of(app)
        shown = str(app.screen.query_one("#table", Static).content)
        seed = next(line for line in shown.splitlines() if "training.seed" in line)
        assert seed.split() == ["≠", "training.seed", "2", "1"]
        split = next(line for line in shown.splitlines() if "data.split" in line)
        assert split.split()[:3] == ["≠", "data.split", "dev"]
        await press(pilot, "m", "j", "k", "escape")
        assert isinstance(app.screen, RunsScreen)
        await press(pilot, "enter")
        assert isinstance(app.screen, OverviewScreen)

    run(app, script, (120, 60))


def test_any_number_of_runs_is_compared(finished: Path) -> None:
    sums_run(finished, 1, "third")
    app = InspectApp(finished, is_run=False)

    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, "space", "j", "space")
        assert text_of(app).count("[c] ") == 2
        assert "are marked [c]" in text_of(app)
        await press(pilot, "space")
        assert text_of(app).count("[c] ") == 1
        await press(pilot, "space", "j", "c")
        assert isinstance(app.screen, CompareScreen)
        names = [side.name for side in app.screen.sides]
        assert sorted(names) == ["first", "second", "third"]
        assert f"{names[0]}, {names[1]} and {names[2]}" in text_of(app)
        shown = str(app.screen.query_one("#table", Static).content)
        episodes = next(line for line in shown.splitlines() if " episodes " in line)
        assert episodes.split()[0] == "≠"
        assert len(episodes.split()) == 5
        exported = app.screen.export()
        assert f"| run | {' | '.join(names)} |" in exported.markdown()
        await press(pilot, "escape")
        assert "[c] " not in text_of(app)

    run(app, script, (120, 60))


def test_y_copies_what_the_cursor_is_at(app: InspectApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, "y")
        assert "| draw |" in app.clipboard
        await press(pilot, "o", "y")
        assert app.clipboard == "35\te35\tthe sum of 35"
        await press(pilot, "enter", "y")
        assert app.clipboard.startswith("## Step 0: draw")
        await press(pilot, "n", "y")
        assert app.clipboard.startswith("### Alternative 1 of step 0")
        await press(pilot, "r", "y")
        assert json.loads(app.clipboard)["step"] == 0

    run(app, script)


@pytest.mark.parametrize(
    ("keys", "name", "lines"),
    [
        ([], "first", 4),
        (["o"], "first-episodes", 36),
        (["o", "enter"], "first-episode-35", 1),
        (["o", "enter", "r"], "first-episode-35-step-0", 1),
    ],
)
def test_e_exports(app: InspectApp, tmp_path: Path, keys: list[str], name: str, lines: int) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, *keys, "e", "enter")
        markdown = tmp_path / f"{name}.md"
        await until(pilot, markdown.is_file)
        assert len(markdown.read_text()) > 100
        await press(pilot, "e")
        app.screen.query_one(Input).value = f"{name}.jsonl"
        await press(pilot, "enter")
        records = tmp_path / f"{name}.jsonl"
        await until(pilot, records.is_file)
        parsed = [json.loads(line) for line in records.read_text().splitlines()]
        assert len(parsed) == lines
        assert {file.name for file in tmp_path.iterdir()} == {markdown.name, records.name}

    run(app, script)


def test_an_export_asks_before_it_replaces_and_says_what_is_wrong(
    app: InspectApp, tmp_path: Path
) -> None:
    async def script(pilot: Pilot[None]) -> None:
        there = tmp_path / "first.md"
        there.write_text("mine")
        await press(pilot, "e", "enter")
        assert "press enter again to replace it" in text_of(app)
        await press(pilot, "escape")
        assert there.read_text() == "mine"
        await press(pilot, "e")
        for value, note in [
            ("x.csv", "must end with .md or .jsonl"),
            ("no/x.md", "no directory"),
            ("n" * 300 + ".md", "File name too long"),
            ("~nobody-at-all/x.md", "no such home"),
        ]:
            app.screen.query_one(Input).value = value
            await press(pilot, "enter")
            assert note in text_of(app)
        app.screen.query_one(Input).value = str(there)
        await press(pilot, "enter", "enter")
        await until(pilot, lambda: there.read_text().startswith("# first"))

    run(app, script)


def test_help_lists_the_keys_of_the_screen(app: InspectApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, "o", "question_mark")
        assert isinstance(app.screen, Help)
        keys = {what: keys for keys, what in app.screen.keys}
        assert keys["Filter"] == "f"
        assert keys["Down"] == "↓ j"
        assert keys["Quit"] == "q"
        await press(pilot, "j", "k", "escape")
        assert isinstance(app.screen, EpisodesScreen)

    run(app, script)


def test_the_command_palette_has_what_the_keys_have(app: InspectApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        commands = {c.title for c in app.get_system_commands(app.screen)}
        assert {"Help", "Export", "Copy", "Follow", "Theme", "Quit"} <= commands
        await press(pilot, "ctrl+p")
        assert type(app.screen).__name__ == "CommandPalette"

    run(app, script)


def test_t_follows_and_stops(app: InspectApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        assert "following" not in text_of(app)
        await press(pilot, "t")
        assert "↻ following" in text_of(app)
        await press(pilot, "t")
        assert "following" not in text_of(app)

    run(app, script)


def test_a_click_opens_what_the_cursor_is_at(app: InspectApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, "o")
        await pilot.click(LazyTable, offset=(10, 4))
        assert cursor(app) == 3
        await pilot.click(LazyTable, offset=(10, 4))
        await settle(pilot)
        assert isinstance(app.screen, EpisodeScreen)

    run(app, script)


def test_q_quits(app: InspectApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, "q")
        assert not app.is_running

    run(app, script)


def test_every_outcome_has_a_badge_that_needs_no_colour(app: InspectApp) -> None:
    from flowtune_cli.tui.symbols import OUTCOMES

    assert OUTCOMES.keys() == set(Outcome)
    assert len({badge.symbol for badge in OUTCOMES.values()}) == len(Outcome)
