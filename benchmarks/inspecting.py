"""How quick ``flowtune inspect`` is on a big run: opening, scrolling, searching, memory.

    python -m benchmarks.inspecting --episodes 20000

builds a run in a temporary directory (about 80 kB an episode) and prints seconds, milliseconds and
megabytes; ``--run DIR`` measures a run that is there. The application runs without a terminal.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Input

from benchmarks import big_run
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.reader import RunReader
from flowtune_cli.tui.app import InspectApp
from flowtune_cli.tui.screens.episodes import EpisodesScreen
from flowtune_cli.tui.widgets.lazy_table import LazyTable

PRESSES = 60


@contextmanager
def timed(what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    print(f"{what:<52}{(time.perf_counter() - start) * 1000:>12,.1f} ms")


def memory(what: str) -> None:
    print(f"{what:<52}{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:>12,.0f} MB")


async def presses(pilot: Pilot[None], what: str, keys: list[str]) -> None:
    """Milliseconds from a key to the screen that it leads to."""
    took = []
    for key in keys:
        start = time.perf_counter()
        await pilot.press(key)
        took.append((time.perf_counter() - start) * 1000)
    print(f"{what:<52}{statistics.median(took):>12,.1f} ms, at most {max(took):,.1f}")


async def application(run: Path) -> None:
    app = InspectApp(run, is_run=True)
    start = time.perf_counter()
    async with app.run_test(size=(120, 34)) as pilot:
        print(f"{'open the overview':<52}{(time.perf_counter() - start) * 1000:>12,.1f} ms")
        with timed("open the episodes"):
            await pilot.press("o")
        screen = app.screen
        assert isinstance(screen, EpisodesScreen)
        rows = screen.query_one(LazyTable)
        await presses(
            pilot, "a key that nothing knows (the test driver's own time)", ["z"] * PRESSES
        )
        await presses(pilot, "a key: one row down", ["j"] * PRESSES)
        await presses(pilot, "a key: one page down", ["pagedown"] * PRESSES)
        await presses(pilot, "a key: the other end", ["G", "g"] * (PRESSES // 4))
        with timed("open an episode"):
            await pilot.press("enter")
        await pilot.press("escape")
        memory("memory after scrolling, at most")

        await pilot.press("slash", *"no such text")
        start = time.perf_counter()
        await screen.query_one(Input).action_submit()  # the driver's Enter would wait for the end
        lags = []
        while screen.result is None or screen.result.searched < screen.result.total:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            lags.append((time.perf_counter() - before) * 1000 - 5)
        print(f"{'search everything':<52}{(time.perf_counter() - start) * 1000:>12,.1f} ms")
        print(
            f"{'a key waits while it searches':<52}{statistics.median(lags):>12,.1f} ms,"
            f" at most {max(lags):,.1f}"
        )
        assert rows.count == 0
        memory("memory after searching, at most")


def queries(store: Path) -> None:
    with RunReader(store) as reader:
        for name in ("counts", "node_summary", "timings"):
            with timed(f"reader.{name}()"):
                getattr(reader, name)()
        with timed("reader.metrics(points=200)"):
            reader.metrics(200)
        with timed("reader.numbers(): all episodes"):
            numbers = reader.numbers()[::-1]
        with timed("reader.search(): the first 100 episodes"):
            next(reader.search("no such text", numbers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=20_000)
    parser.add_argument("--run", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        run = RunDirectory(arguments.run) if arguments.run else None
        if run is None:
            with timed(f"make and write {arguments.episodes:,} episodes"):
                run = big_run.write(Path(directory), arguments.episodes)
        print(f"{'size of the store':<52}{run.store_path.stat().st_size / 1e6:>12,.0f} MB")
        queries(run.store_path)
        memory("memory before the application")
        asyncio.run(application(run.path))


if __name__ == "__main__":
    main()
