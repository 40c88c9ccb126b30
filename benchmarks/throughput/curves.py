"""How seconds and tokens an example grow, for flowtune alone: one setting takes several values.

Each point runs in a process of its own, so that none warms up for the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.throughput.meter import Figures
from benchmarks.throughput.records import Setup
from flowtune_cli.registry import load_registry

VALUES = {
    "in_flight": (1, 4, 16, 64),
    "alternatives": (1, 2, 4, 8),
    "hops": (2, 4, 8, 12),
    "documents": (5, 10, 20, 40),
}


def curve(
    name: str, setup: Setup, mode: str, process: Callable[[Setup], Any], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One row for each value, with its ``value`` and ``figures``.

    Args:
        name: of ``VALUES``; "hops" and "documents" are settings of toyqa.
        mode: "train" or "predict"; all records are one mini-batch.
        process: makes the process of a point.
    """
    if name in ("hops", "documents"):
        setup = replace(setup, task="toyqa", data=None)
    rows = []
    for value in VALUES[name]:
        say(f"{name} {value}")
        with process(setup.with_overrides(*overrides(name, value, setup))) as side:
            figures: Figures = side(mode, 0, setup.records)
            rows.append({"value": value, "figures": figures})
    return rows


def overrides(name: str, value: int, setup: Setup) -> list[str]:
    """The settings that make a point of a curve."""
    if name == "in_flight":
        return [f"engine.in_flight={value}"]
    if name == "alternatives":
        task = load_registry().task(setup.task)
        nodes = task.default_nodes(task.Settings() if task.Settings else None)
        return [
            f"tasks.{setup.task}.nodes.{node.name}.alternatives={value}"
            for node in nodes
            if node.deviates and node.kind != "judge"
        ]
    return [f"tasks.toyqa.{name}={value}"]
