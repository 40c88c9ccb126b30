"""Does a flow learn from its deviations? Untrained against trained, on questions it never saw.

    python -m benchmarks.learning toyqa --seeds 1 2 3 --limit 96 --questions 200
    python -m benchmarks.learning toyqa --seeds 1 --limit 96 --questions 200 --control

With ``--control`` the two outputs of every preference change places by the toss of a coin, so that
all is the same but what there is to learn. Each row is stored in ``--out`` as soon as it is known;
run again after an interruption, the command goes on with the rows that are missing, and a run in
the middle of its training goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console
from rich.table import Table

from flowtune_cli.config.resolve import resolve
from flowtune_cli.flow.deviation import Trace
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Node, PreferenceDatum
from flowtune_cli.registry import load_registry
from flowtune_cli.runs.atomic import write_json
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.training import loop
from flowtune_cli.training.assess import assess
from flowtune_cli.training.data import NodeData, collect
from flowtune_cli.training.loop import Report, Trainer
from flowtune_cli.training.session import set_up


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def learn(
    task_name: str,
    *,
    directory: Path,
    name: str,
    seed: int,
    limit: int,
    questions: int,
    overrides: Sequence[str] = (),
    control: bool = False,
    before: dict[str, float | None] | None = None,
) -> dict[str, Any]:
    """Assess a task's flow, train it, and assess it again, on its last split.

    Args:
        before: the untrained figures, if they are known: a fresh adapter changes nothing, so
            they are the same for every seed.

    Returns:
        ``before`` and ``after``: each reward's mean; ``seconds`` by what they went into.
    """
    registry = load_registry()
    flags = {"training.seed": seed, "training.limit": limit, "run.directory": str(directory)}
    resolved = resolve(
        registry.task(task_name),
        environ=os.environ,
        overrides=overrides,
        flags=flags,
        registry=registry,
    )
    task, settings = resolved.make_task(), resolved.settings
    unseen = list(task.examples(None, task.splits[-1]))[:questions]
    seconds: dict[str, float] = {}
    start = time.perf_counter()

    def timed(what: str) -> None:
        seconds[what] = time.perf_counter() - start - sum(seconds.values())

    say(f"loading {settings.model.name}")
    session = set_up(task, settings, registry)
    timed("load")
    if before is None:
        say(f"playing {len(unseen)} unseen questions before training")
        before = _means(session, unseen)
        timed("assess before")

    if (directory / name).exists():
        run = RunDirectory.open(name, directory)
    else:
        run = RunDirectory.create(
            directory,
            name,
            task=task.name,
            model=settings.model.name,
            settings=dataclasses.replace(resolved, settings=session.settings).stored,
        )
    tossed = mock.patch.object(loop, "collect", _tossed(seed)) if control else nullcontext()
    with run.lock(), tossed:
        trainer = Trainer(session, run, list(task.examples(None, task.splits[0])))
        trainer.on_report = _show(time.perf_counter())
        trainer.resume()
        trainer.train()
        run.update(state="finished", episodes=len(trainer.order))
    timed("train")
    say(f"playing the same {len(unseen)} questions after training")
    after = _means(session, unseen)
    timed("assess after")
    return {
        "seed": seed,
        "control": control,
        "episodes": len(trainer.order),
        "questions": len(unseen),
        "before": before,
        "after": after,
        "seconds": seconds,
        "run": str(run.path),
    }


def _means(session: Any, examples: Sequence[Example]) -> dict[str, float | None]:
    averages = assess(session, examples)
    return {name: average.mean for name, average in averages.items()}


def _show(start: float) -> Any:
    def show(report: Report) -> None:
        if report.record is None:
            return
        rewards = {name: metric.window for name, metric in report.record.metrics.items()}
        text = "  ".join(f"{name} {value:.2f}" for name, value in rewards.items() if value)
        learned = sum(update.data for update in report.record.updates)
        say(
            f"  {report.episodes}/{report.total} episodes  {time.perf_counter() - start:.0f} s"
            f"  {learned} preferences  so far: {text}"
        )

    return show


def _tossed(seed: int) -> Any:
    """Like ``collect``, but which output of a preference is the better one is left to chance."""
    coin = random.Random(f"{seed}/control")

    def toss(nodes: Sequence[Node], traces: Sequence[Trace]) -> dict[str, NodeData]:
        collected = collect(nodes, traces)
        for node_data in collected.values():
            node_data.data = [
                dataclasses.replace(datum, chosen=datum.rejected, rejected=datum.chosen)
                if isinstance(datum, PreferenceDatum) and coin.random() < 0.5
                else datum
                for datum in node_data.data
            ]
        return collected

    return toss


def table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Untrained against trained, a line for each run and reward."""
    shown = Table("run", "reward", "untrained", "trained", "gain", title=title)
    for row in rows:
        label = f"seed {row['seed']}" + (", tossed preferences" if row["control"] else "")
        for name, before in row["before"].items():
            after = row["after"][name]
            if before is None or after is None:
                continue
            shown.add_row(label, name, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}")
            label = ""
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--limit", type=int, default=96, help="episodes to train on")
    parser.add_argument("--questions", type=int, default=200, help="unseen questions to play")
    parser.add_argument("--control", action="store_true", help="toss the preferences' signs")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in given.seeds:
        name = f"{given.task}-{given.limit}-{seed}" + ("-control" if given.control else "")
        file = given.out / f"{name}.json"
        if not file.exists():
            row = learn(
                given.task,
                directory=given.out,
                name=name,
                seed=seed,
                limit=given.limit,
                questions=given.questions,
                overrides=given.overrides,
                control=given.control,
                before=rows[0]["before"] if rows else None,
            )
            write_json(file, row)
        rows.append(json.loads(file.read_text()))
    if given.json:
        print(json.dumps(rows, indent=1))
    else:
        Console().print(table(rows, f"{given.task}, on {given.questions} unseen questions"))


if __name__ == "__main__":
    main()
