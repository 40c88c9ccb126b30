"""The list of runs shows tags where there are some, and the note of the run at the cursor."""

from __future__ import annotations

import asyncio
from pathlib import Path

from flowtune_cli.tui.app import InspectApp
from tui.conftest import make_run, settle, text_of


def test_tags_and_notes(tmp_path: Path) -> None:
    run = make_run(tmp_path, "first", 2)
    other = make_run(tmp_path, "second", 2)

    async def screen() -> str:
        app = InspectApp(tmp_path, is_run=False)
        async with app.run_test(size=(110, 24)) as pilot:
            await settle(pilot)
            return text_of(app)

    before = asyncio.run(screen())
    assert "tags" not in before
    run.change_info(lambda info: {"tags": ["paper"]})
    other.change_info(lambda info: {"note": "the one of Friday"})
    shown = asyncio.run(screen())
    assert "tags" in shown
    [line] = [line for line in shown.splitlines() if " first " in line]
    assert "paper" in line
    assert "the one of Friday" in shown  # the cursor is at the newest
