"""Behind a page nothing can be done but reading runs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowtune_cli.tui.dialogs.ask_path import AskPath
from flowtune_cli.tui.screens.overview import OverviewScreen
from flowtune_cli.tui.web_app import WebInspectApp, refuse
from report.stored_runs import sums_run


@pytest.mark.parametrize(
    ("event", "arguments"),
    [
        ("open", ("store", "w", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)),
        ("open", ("store", "r+", os.O_RDWR)),
        ("open", ("store", "a", 0)),
        ("open", ("store", None, os.O_WRONLY)),
        ("os.remove", ("store", -1)),
        ("os.rename", ("store", "x", -1, -1)),
        ("os.system", ("x",)),
        ("subprocess.Popen", ("x", [], None, None)),
        ("socket.connect", (None, ("host", 1))),
        ("webbrowser.open", ("x",)),
        ("sqlite3.connect", ("store.sqlite",)),
        ("sqlite3.connect", ("file:store.sqlite?mode=rw",)),
        ("shutil.rmtree", ("x", None)),
    ],
)
def test_what_does_not_read_is_refused(event: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(PermissionError, match="refused in the web application"):
        refuse(event, arguments)


@pytest.mark.parametrize(
    ("event", "arguments"),
    [
        ("open", ("store", "r", os.O_RDONLY | os.O_CLOEXEC)),
        ("open", ("store", "rb", 0)),
        ("open", ("lock", None, os.O_RDONLY)),
        ("sqlite3.connect", ("file:///store.sqlite?mode=ro",)),
        ("os.listdir", ("runs",)),
        ("import", ("json", None, None, None, None)),
    ],
)
def test_what_reads_passes(event: str, arguments: tuple[object, ...]) -> None:
    refuse(event, arguments)


def test_a_process_that_refuses_reads_runs_and_writes_nothing(tmp_path: Path) -> None:
    run = sums_run(tmp_path)
    code = f"""
import os, sqlite3, subprocess, sys
from pathlib import Path
from flowtune_cli.runs.directory import list_runs
from flowtune_cli.tui.open_run import OpenRun
from flowtune_cli.tui.web_app import refuse
sys.addaudithook(refuse)
path = Path({str(run.path)!r})
[info] = list_runs(path.parent)
run = OpenRun(path)
assert run.problem == "" and run.reader.counts().episodes == 24
assert run.reader.episode(3).number == 3
for act in (
    lambda: (path / "new").write_text("x"),
    lambda: os.open(path / "new", os.O_CREAT | os.O_WRONLY),
    lambda: (path / "run.json").unlink(),
    lambda: (path / "run.json").rename(path / "other"),
    lambda: (path / "new").mkdir(),
    lambda: sqlite3.connect(path / "store.sqlite"),
    lambda: subprocess.run(["true"]),
    lambda: os.system("true"),
):
    try:
        act()
    except PermissionError:
        continue
    raise SystemExit("it was done")
"""
    before = {path: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert not (run.path / "new").exists()


def test_keys_that_write_or_command_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks: list[object] = []
    # A hook stays as long as the process.
    monkeypatch.setattr(sys, "addaudithook", hooks.append)
    run = sums_run(tmp_path)

    async def keys() -> None:
        app = WebInspectApp(run.path, is_run=True)
        async with app.run_test(size=(100, 30)) as pilot:
            await pilot.pause()
            assert isinstance(app.screen, OverviewScreen)
            assert hooks == [refuse]
            for key in ("e", "ctrl+p", "ctrl+s"):
                await pilot.press(key)
                await pilot.pause()
                assert isinstance(app.screen, OverviewScreen), key
            assert [n.message for n in app._notifications] == ["Export is disabled in a browser."]
            app.open_url("https://example.org")
            assert app.deliver_screenshot() is None
            assert await app.push_screen_wait(AskPath("all", tmp_path)) is None

    asyncio.run(keys())
