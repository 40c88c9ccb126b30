"""What ``flowtune train --dry-run`` prints."""

from __future__ import annotations

from collections.abc import Iterator

from ..runs.usage import short_number
from ..training.dry_run import Expectation
from .output import print_rows
from .progress import duration


def print_expectation(found: Expectation, passes: int) -> None:
    """Print what a run is expected to take, and what each of its nodes is expected to do."""
    print_rows(["what", "expected"], [{"what": a, "expected": b} for a, b in _rows(found, passes)])
    print_rows(
        ["node", "calls", "tokens read", "tokens written"],
        [
            {
                "node": node.node,
                "calls": short_number(node.calls),
                "tokens read": short_number(node.read),
                "tokens written": short_number(node.written),
            }
            for node in found.nodes
        ],
    )


def _rows(found: Expectation, passes: int) -> Iterator[tuple[str, str]]:
    in_passes = f" in {passes} passes" if passes > 1 else ""
    yield "examples", f"{found.examples:,}{in_passes}"
    yield "rollouts", f"about {short_number(found.rollouts)}"
    yield "preferences", f"about {short_number(found.preferences)}"
    calls = sum(node.calls for node in found.nodes)
    yield "node calls", f"about {short_number(calls)}"
    evaluating = found.evaluation_seconds
    of_these = f", {duration(evaluating)} of it for evaluations" if evaluating else ""
    yield "time", f"about {duration(found.seconds)}{of_these}"
    memory = f"{found.usage.peak_memory / 1e9:.1f} GB"
    if found.usage.peak_gpu_memory:
        memory += f", and {found.usage.peak_gpu_memory / 1e9:.1f} GB on the GPU"
    yield "memory", f"at least {memory}"
