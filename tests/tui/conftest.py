"""Runs to look at, made without a model, and the application on them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot

from flowtune_cli.runs.batch import BatchRecord, MetricRecord
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.store import Store
from flowtune_cli.tui.app import InspectApp
from support.random_batches import played, question_of

BATCHES = 12
"""Of three episodes each."""


def with_window(record: BatchRecord) -> dict[str, MetricRecord]:
    """The metrics of a batch with the average over a window, which is not known at first."""
    wave = math.sin(record.batch) / 5 + record.batch / 8
    window = None if record.batch < 2 else wave
    return {name: replace(metric, window=window) for name, metric in record.metrics.items()}


def make_run(parent: Path, name: str, batches: int = BATCHES, **settings: object) -> RunDirectory:
    run = RunDirectory.create(
        parent, name, task="sums", model="none", settings={"settings": {"training": settings}}
    )
    about = run.path / "run.json"
    told = json.loads(about.read_text())
    about.write_text(json.dumps({**told, "created": f"2026-01-0{len(name)}T12:00:00+00:00"}))
    with Store(run.store_path, question_of) as store:
        for record in played(batches):
            store.write_batch(replace(record, metrics=with_window(record)))
    run.update(state="finished", episodes=3 * batches)
    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two runs that nobody may change."""
    parent = tmp_path_factory.mktemp("runs")
    make_run(parent, "first", seed=1)
    make_run(parent, "second", 8, seed=2)
    return parent


@pytest.fixture
def app(finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> InspectApp:
    """The application on the first run, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    return InspectApp(finished / "first", is_run=True)


async def press(pilot: Pilot[None], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
    await settle(pilot)


async def settle(pilot: Pilot[None]) -> None:
    """Wait until every message is processed and no thread works, however long that takes."""
    await pilot.pause()
    while threads := [w for w in pilot.app.workers if w._thread_worker and not w.is_finished]:
        await pilot.app.workers.wait_for_complete(threads)
        await pilot.pause()


async def until(pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    for _ in range(9000):
        if holds():
            return
        await pilot.pause(0.02)
    raise AssertionError("it did not come to hold within three minutes")


def text_of(app: InspectApp) -> str:
    """What stands on the screen, line by line."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)
