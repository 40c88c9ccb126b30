"""Makes the pictures of ``flowtune inspect`` in docs/images/ from a run, by the application itself.

    python docs/inspect_images.py runs/toyqa-001

The run must be ToyQA's, whose texts are generated: the pictures show what is in it.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from flowtune_cli.runs.reader import RunReader
from flowtune_cli.runs.records import Filter
from flowtune_cli.tui.app import InspectApp
from flowtune_cli.tui.screens.episode import EpisodeScreen
from flowtune_cli.tui.widgets.lazy_table import LazyTable

IMAGES = Path(__file__).parent / "images"
SIZE = (120, 34)


def telling(run: Path) -> tuple[int, int]:
    """An episode and a rollout in it that won with another text, and went on long afterwards."""
    from flowtune_cli.tui.step_alignment import align_steps

    with RunReader(run / "store.sqlite") as reader:
        best = (0.0, 0, 0)
        for number in reader.numbers(Filter(preference=True)):
            episode = reader.episode(number)
            for rollout in episode.rollouts:
                pairs = align_steps(episode, rollout)
                said = episode.steps[rollout.step].output.split()
                if (rollout.gain or 0) > 0 and len(said) > 2 and any(p.first for p in pairs):
                    best = max(best, (float(len(pairs)), number, rollout.number))
        return best[1:]


async def take(run: Path) -> None:
    number, rollout = telling(run)
    app = InspectApp(run, is_run=True)
    async with app.run_test(size=SIZE) as pilot:

        async def picture(name: str) -> None:
            await pilot.pause(0.3)
            svg = app.export_screenshot(title="flowtune inspect", simplify=True)
            (IMAGES / f"inspect-{name}.svg").write_text(svg, encoding="utf-8")

        await picture("overview")
        await pilot.press("o")
        await picture("episodes")
        app.open_episode(app.open_store(run), number)
        await pilot.pause(0.3)
        screen = app.screen
        assert isinstance(screen, EpisodeScreen)
        rows = screen.query_one(LazyTable)
        rows.cursor = next(
            index
            for index, entry in enumerate(screen.entries)
            if getattr(entry, "number", None) == rollout
        )
        await pilot.press("d")
        await picture("episode")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    IMAGES.mkdir(exist_ok=True)
    asyncio.run(take(parser.parse_args().run))
