"""Every screen looks as it did: a picture at 80×24 and at 120×34 stands beside this test.

``SNAPSHOTS=write`` makes the pictures anew; look at them before they are committed. With other
versions of the libraries that draw, only the text is compared: colours and spans may then differ.
"""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
from importlib.metadata import version
from pathlib import Path

import pytest

from flowtune_cli.tui.app import InspectApp
from tui.conftest import press, settle

SNAPSHOTS = Path(__file__).parent / "snapshots"
LIBRARIES = ("rich", "textual", "textual-plot", "textual-hires-canvas")
SCREENS = {
    "runs": ["runs"],
    "runs-marked": ["runs", "c", "j"],
    "compare": ["runs", "c", "j", "c"],
    "overview": [],
    "overview-light": ["light"],
    "overview-next-metric": ["m"],
    "episodes": ["o"],
    "episodes-of-a-node": ["enter"],
    "episodes-searched": ["o", "slash", *"of 3".replace(" ", "_"), "enter"],
    "filter": ["o", "f", "enter"],
    "sort": ["o", "s"],
    "search": ["o", "slash", *"sum"],
    "export": ["o", "e"],
    "help": ["o", "question_mark"],
    "episode": ["o", "enter"],
    "episode-deviation": ["o", "enter", "n", "n"],
    "episode-diff": ["o", "enter", "n", "d"],
    "episode-wide": ["o", "enter", "n", "enter"],
    "episode-failed": ["o", "f", "down", "down", "enter", "escape", "enter"],
    "raw": ["o", "enter", "n", "r"],
}


def versions() -> dict[str, str]:
    return {library: version(library) for library in LIBRARIES}


def texts(svg: str) -> list[tuple[str, str]]:
    """The line and the text of each span of a picture."""
    spans = re.findall(r'<text[^>]* y="([\d.]+)"[^>]*>([^<]*)</text>', svg)
    return [(y, html.unescape(text).replace("\xa0", " ").rstrip()) for y, text in spans]


@pytest.mark.parametrize("size", [(80, 24), (120, 34)], ids=["80x24", "120x34"])
@pytest.mark.parametrize("name", SCREENS)
def test_it_looks_as_it_did(
    name: str,
    size: tuple[int, int],
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = list(SCREENS[name])
    of_runs = keys[:1] == ["runs"]
    app = InspectApp(finished if of_runs else finished / "first", is_run=not of_runs)

    async def picture() -> str:
        async with app.run_test(size=size) as pilot:
            app.animation_level = "none"
            app.theme = "textual-light" if "light" in keys else "textual-dark"
            await settle(pilot)
            for key in keys:
                if key == "_":
                    key = "space"
                if key not in ("runs", "light"):
                    await press(pilot, key)
            await settle(pilot)
            for widget in app.screen.query("Input"):
                widget.cursor_blink = False  # type: ignore[attr-defined]
            await settle(pilot)
            return app.export_screenshot(simplify=True)

    svg = asyncio.run(picture())
    snapshot = SNAPSHOTS / f"{name}-{size[0]}x{size[1]}.svg"
    if os.environ.get("SNAPSHOTS") == "write":
        SNAPSHOTS.mkdir(exist_ok=True)
        snapshot.write_text(svg, encoding="utf-8")
        (SNAPSHOTS / "versions.json").write_text(json.dumps(versions(), indent=2) + "\n")
        return
    expected = snapshot.read_text(encoding="utf-8")
    (tmp_path / snapshot.name).write_text(svg, encoding="utf-8")
    assert texts(svg) == texts(expected), f"now it looks like {tmp_path / snapshot.name}"
    if json.loads((SNAPSHOTS / "versions.json").read_text()) == versions():
        assert svg == expected, f"colours differ: now it looks like {tmp_path / snapshot.name}"
