"""Does a mini-batch take longer as a run goes on?

    python -m benchmarks.steady --episodes 500

ToyQA is trained on a tiny random model, so that nearly all time is flowtune's own, where whatever
grew with the run would show. The first mini-batches, those half-way and the last are compared by
the clock and by the processor, per mini-batch and per node call, as what is learned changes how
many calls there are. Fails if not every episode was played.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.work import save_tiny_model
from flowtune_cli.config.resolve import resolve
from flowtune_cli.flow.deviation import Trace
from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.registry import load_registry
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.training.loop import Report, Trainer
from flowtune_cli.training.session import set_up

COMPARED = 10
"""Mini-batches of which a figure is the mean."""


@dataclass(frozen=True)
class Took:
    """What one mini-batch took.

    Args:
        seconds: by the clock, all that is stored included.
        cpu_seconds: by the processor.
        calls: of nodes, in episodes and behind the deviations of their rollouts.
        megabytes: held at its end.
    """

    seconds: float
    cpu_seconds: float
    calls: int
    megabytes: float


def train(episodes: int, folder: Path) -> list[Took]:
    """Train for so many episodes, and say what each mini-batch took.

    Raises:
        RuntimeError: an episode was not played, or failed.
    """
    model = folder / "model"
    save_tiny_model(model, context=4096)
    registry = load_registry()
    resolved = resolve(
        registry.task("toyqa"),
        environ=os.environ,
        overrides=[f"tasks.toyqa.train_size={episodes}"],
        flags={"model.name": str(model)},
        registry=registry,
    )
    session = set_up(resolved.make_task(), resolved.settings, registry)
    run = RunDirectory.create(
        folder,
        "steady",
        task="toyqa",
        model=str(model),
        settings=replace(resolved, settings=session.settings).stored,
    )
    took: list[Took] = []
    begun = [0.0, 0.0]

    def start() -> None:
        begun[:] = time.perf_counter(), time.process_time()

    def measure(report: Report) -> None:
        if report.record is not None:
            seconds, cpu_seconds = time.perf_counter() - begun[0], time.process_time() - begun[1]
            took.append(Took(seconds, cpu_seconds, calls(report.record.traces), held_megabytes()))
            start()

    trainer = Trainer(session, run, list(session.task.examples(None, "train")), on_report=measure)
    start()
    trainer.train()
    position = trainer.position
    if position.episodes != episodes or position.failed:
        raise RuntimeError(
            f"{position.episodes} of {episodes} episodes were played,"
            f" and {position.failed} episodes and rollouts failed"
        )
    return took


def calls(traces: Sequence[Trace]) -> int:
    """Node calls of episodes, and of rollouts behind the step where they deviate."""
    return sum(
        len(trace.episode.steps)
        + sum(
            len(tried.rollout.steps) - tried.step - 1
            for tried in trace.deviations
            if tried.rollout is not None
        )
        for trace in traces
    )


def held_megabytes() -> float:
    """What this process holds now; 0 where the system does not say."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return 0.0
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def windows(took: Sequence[Took]) -> dict[str, Sequence[Took]]:
    """The mini-batches that are compared: the first ones, those half-way and the last."""
    count = min(COMPARED, max(len(took) // 3, 1))
    middle = (len(took) - count) // 2
    return {
        "first": took[:count],
        "half-way": took[middle : middle + count],
        "last": took[-count:],
    }


def table(took: Sequence[Took], episodes: int) -> Table:
    seconds = sum(t.seconds for t in took)
    shown = Table(
        "mini-batches",
        "seconds each",
        "processor's seconds",
        "calls",
        "ms a call",
        "MB held",
        title=f"{episodes} episodes in {len(took)} mini-batches, {seconds:.0f} s",
    )
    for name, chosen in windows(took).items():
        count = sum(t.calls for t in chosen)
        shown.add_row(
            f"{name} {len(chosen)}",
            f"{statistics.mean(t.seconds for t in chosen):.3f}",
            f"{statistics.mean(t.cpu_seconds for t in chosen):.3f}",
            f"{count / len(chosen):.1f}",
            f"{1000 * sum(t.seconds for t in chosen) / count:.2f}",
            f"{chosen[-1].megabytes:.0f}",
        )
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=500)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        try:
            took = train(given.episodes, Path(folder))
        except (FlowtuneError, RuntimeError) as error:
            print(f"steady: error: {error}", file=sys.stderr)
            return 1
    Console().print(table(took, given.episodes))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
