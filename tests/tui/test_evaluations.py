"""Evaluations on held-out examples, as the overview shows them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from flowtune_cli.tui.app import InspectApp
from flowtune_cli.tui.screens.overview import OverviewScreen
from flowtune_cli.tui.widgets.metric_plot import MetricPlot
from support.evaluated_runs import evaluated_run
from tui.conftest import make_run, press, settle, text_of


def test_the_overview_plots_them_and_names_the_best(tmp_path: Path) -> None:
    evaluated_run(tmp_path)
    app = InspectApp(tmp_path / "run", is_run=True)

    async def look() -> None:
        async with app.run_test(size=(200, 40)) as pilot:
            await settle(pilot)
            shown = text_of(app)
            assert "best held-out high 0.750 at 3 episodes" in shown
            assert "●held out 0.500" in shown
            assert "own.exact ●held out 0.375" in shown
            lines = {
                plot._content[0]: [(line.name, line.points) for line in plot._content[1]]
                for plot in app.screen.query(MetricPlot)
                if plot._content
            }
            points = [(0, 0.25), (3, 0.75), (6, None), (9, 0.5)]
            assert [name for name, _ in lines["high"]] == ["window", "run", "held out"]
            assert lines["high"][2] == ("held out", points)
            assert [name for name, _ in lines["own.exact"]] == ["held out"]
            screen = app.screen
            assert isinstance(screen, OverviewScreen)
            text = screen.copy_text()
            assert "held out, after episodes" in text
            assert "| 3 | 0.750 | 0.125 | 1 of 10 | best |" in " ".join(text.split())
            records = [r for r in screen.export().records() if "evaluation" in r]
            assert [r["evaluation"]["best"] for r in records] == [False, True, False, False]
            await press(pilot, "m")  # the next figure comes first
            assert "held out" in text_of(app)

    asyncio.run(look())


def test_a_run_without_any_says_nothing_of_them(tmp_path: Path) -> None:
    make_run(tmp_path, "run")
    app = InspectApp(tmp_path / "run", is_run=True)

    async def look() -> None:
        async with app.run_test(size=(200, 40)) as pilot:
            await settle(pilot)
            assert "held" not in text_of(app)
            screen = app.screen
            assert isinstance(screen, OverviewScreen)
            assert "held out" not in screen.copy_text()

    asyncio.run(look())
