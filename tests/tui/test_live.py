"""A run in whatever state: being trained, not begun, killed, damaged, of an older version."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from textual.pilot import Pilot

from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.store import Store
from flowtune_cli.tui.app import InspectApp
from flowtune_cli.tui.screens.episodes import EpisodesScreen
from flowtune_cli.tui.widgets.lazy_table import LazyTable
from support.processes import python
from support.random_batches import played, question_of
from tui.conftest import make_run, press, settle, text_of, until

WRITER = """
import sys
from pathlib import Path
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.store import Store
from support.random_batches import played, question_of

run = RunDirectory(Path(sys.argv[1]))
with run.lock():
    run.update(state="training")
    print("locked", flush=True)
    records = played(9)
    sys.stdin.readline()
    with Store(run.store_path, question_of) as store:
        for record in records:
            store.write_batch(record)
            run.update(episodes=store.episodes)
            print(store.episodes, flush=True)
            sys.stdin.readline()
    run.update(state="finished")
"""


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowtune_cli.tui.screens.base.POLL_SECONDS", 0.05)


def new_run(parent: Path) -> RunDirectory:
    return RunDirectory.create(parent, "live", task="sums", model="none", settings={})


def at_cursor(app: InspectApp) -> int:
    assert isinstance(app.screen, EpisodesScreen)
    return app.screen.number_at(app.screen.query_one(LazyTable).cursor)


def test_a_run_that_another_process_trains_grows_while_it_is_watched(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    app = InspectApp(run.path, is_run=True)

    async def main() -> None:
        with python(WRITER, run.path) as writer:
            assert writer.stdin is not None
            assert writer.stdout is not None
            assert writer.stdout.readline() == "locked\n"

            def on() -> str:
                writer.stdin.write("\n")  # type: ignore[union-attr]
                writer.stdin.flush()  # type: ignore[union-attr]
                return writer.stdout.readline().strip()  # type: ignore[union-attr]

            async with app.run_test(size=(80, 24)) as pilot:
                await settle(pilot)
                assert "● training" in text_of(app)
                assert "↻ following" in text_of(app)
                assert "there is no store" in text_of(app)
                assert on() == "3"
                await until(pilot, lambda: "3 episodes" in text_of(app))
                await press(pilot, "o", "j")
                assert at_cursor(app) == 1
                for count in (6, 9):
                    assert on() == str(count)
                    await until(pilot, lambda n=count: f"{n} of {n} episodes" in text_of(app))  # type: ignore[misc]
                assert at_cursor(app) == 1, "the cursor stays on its episode"
                await press(pilot, "t")
                assert on() == "12"
                await pilot.pause(0.3)
                assert "9 of 9 episodes" in text_of(app)
                await press(pilot, "t")
                await until(pilot, lambda: "12 of 12 episodes" in text_of(app))
                # What is filtered and searched grows, too.
                await press(pilot, "slash", *"sum", "enter")
                await until(pilot, lambda: "12 of 12 episodes · contains" in text_of(app))
                assert on() == "15"
                await until(pilot, lambda: "15 of 15 episodes · contains" in text_of(app))
                writer.communicate("\n" * 9, timeout=600)
                await until(pilot, lambda: "✓ finished" in text_of(app))
                await until(pilot, lambda: "27 of 27 episodes" in text_of(app))

    asyncio.run(main())


def shown(path: Path, *keys: str, is_run: bool = True) -> str:
    """What stands on the screen after these keys."""
    app = InspectApp(path, is_run=is_run)

    async def main() -> str:
        async with app.run_test(size=(100, 24)) as pilot:
            await settle(pilot)
            await press(pilot, *keys)
            await settle(pilot)
            return text_of(app)

    return asyncio.run(main())


def test_a_run_that_was_killed_before_it_wrote(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    screen = " ".join(shown(run.path).split())
    assert "! interrupted" in screen
    assert "has not written anything yet" in screen
    assert "flowtune train --resume" in screen
    assert "there is no store" in shown(run.path, "o", "f", "escape", "s", "escape", "y")


def test_an_empty_store(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with Store(run.store_path, question_of):
        pass
    assert "0 episodes" in shown(run.path)
    assert "No episodes yet" in shown(run.path, "o", "enter", "y", "e", "escape")


def test_without_settings_and_with_a_torn_description(tmp_path: Path) -> None:
    run = make_run(tmp_path, "torn", 2)
    (run.path / "settings.json").unlink()
    (run.path / "run.json").write_text("{")
    screen = shown(run.path)
    assert "? unreadable" in screen
    assert "is not JSON" in " ".join(screen.split())
    assert "draw" in screen, "what is stored is shown all the same"
    other = make_run(tmp_path, "other", 2)
    assert "? unreadable" in shown(tmp_path, is_run=False)
    assert "cannot be read" in shown(tmp_path, "c", "j", "c", "G", *["pagedown"] * 3, is_run=False)
    assert other.path.is_dir()


def test_a_damaged_store_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path, "damaged", 1)
    run.store_path.write_bytes(b"no database" * 999)
    assert "file is not a database" in " ".join(shown(run.path).split())


def test_a_store_of_a_later_version_says_why_it_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        later.setattr("flowtune_cli.runs.schema.SCHEMA_VERSION", 99)
        run = make_run(tmp_path, "later", 1)
    assert "a newer flowtune" in " ".join(shown(run.path).split())


def test_episodes_that_a_resumed_run_takes_back_go_away(tmp_path: Path) -> None:
    run = make_run(tmp_path, "again", 4)
    app = InspectApp(run.path, is_run=True)

    async def script(pilot: Pilot[None]) -> None:
        await press(pilot, "t", "o", "j", "enter")
        await press(pilot, "escape", "G", "g")
        with Store(run.store_path, question_of) as store:
            store.truncate(2)
        await until(pilot, lambda: "6 of 6 episodes" in text_of(app))
        await press(pilot, "enter")
        assert "episode 5" in text_of(app)

    async def main() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            await settle(pilot)
            await script(pilot)

    asyncio.run(main())


def test_what_would_steer_a_terminal_is_shown_as_an_escape(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    (record,) = played(1)
    with Store(run.store_path, lambda example: f"\x1b]0;gotcha\x07 {example.id} [red]x[/red]") as s:
        s.write_batch(record)
    for keys in (["o"], ["o", "enter"]):
        screen = shown(run.path, *keys)
        assert "\x1b" not in screen
        assert r"\x1b]0;gotcha\x07" in screen
        assert "[red]" in screen


def test_nothing_is_written_to_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, "still", 3)
    before = {file: file.read_bytes() for file in run.path.iterdir() if file.is_file()}
    shown(run.path, "o", "enter", "n", "d", "escape", "slash", "x", "enter")
    after = {file: file.read_bytes() for file in before}
    assert after == before


def test_it_never_imports_torch() -> None:
    script = """
import sys
import flowtune_cli.cli.main
from flowtune_cli.registry import load_registry
assert "textual" not in sys.modules, "flowtune --help stays quick"
load_registry()
import flowtune_cli.cli.inspect, flowtune_cli.tui.app
print([name for name in ("torch", "transformers", "peft") if name in sys.modules])
"""
    out, _ = python(script).communicate(timeout=600)
    assert out.strip() == "[]"
