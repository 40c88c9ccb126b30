"""Runs flowtune and the baseline by turns, each in a process of its own, and adds up figures."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.throughput import side
from benchmarks.throughput.meter import Figures
from benchmarks.throughput.records import Setup


class Process:
    """A process of its own, for one side or check.

    Args:
        setup: what is run there; None sets nothing up.
        plain: the baseline in place of flowtune.
    """

    def __init__(self, setup: Setup | None = None, plain: bool = False) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context)
        if setup is not None:
            self._pool.submit(side.begin, setup, plain).result()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown()

    def run(self, function: Any, *args: Any) -> Any:
        return self._pool.submit(function, *args).result()

    def __call__(self, method: str, *args: Any) -> Any:
        """Call a method of the side there."""
        return self.run(side.call, method, *args)


def compare(
    setup: Setup, modes: Sequence[str], baseline_records: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run both sides by turns.

    Args:
        modes: of "predict" and "train", in this order.
        baseline_records: how many of the records the baseline runs; 0 leaves it out.

    Returns:
        ``about`` the machine; for each mode the figures of ``flowtune`` over all records, and of
        ``plain`` and ``paired`` (flowtune) over those that both ran.
    """
    with ExitStack() as stack:
        fast = stack.enter_context(Process(setup))
        slow = stack.enter_context(Process(setup, plain=True)) if baseline_records else None
        shared = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        about = fast("about")
        records, paired = about["records"], min(baseline_records, about["records"])
        result: dict[str, Any] = {"about": about}
        for mode in modes:
            size = about["batch_size"] if mode == "train" else about["in_flight"]
            sums = {"flowtune": Figures(), "paired": Figures(), "plain": Figures()}
            for start in (*range(0, paired, size), *range(paired, records, size)):
                end = min(start + size, paired if start < paired else records)
                say(f"{mode}: records {start + 1} to {end} of {records}")
                if slow and start < paired:
                    state = shared / f"{mode}-{start}"
                    fast("save", state)
                    slow("load", state)
                    sums["plain"] += slow(mode, start, end)
                figures = fast(mode, start, end)
                sums["flowtune"] += figures
                if start < paired:
                    sums["paired"] += figures
            result[mode] = sums
        about["peak_gflops"] = max(about["peak_gflops"], fast("about")["peak_gflops"])
        return result
