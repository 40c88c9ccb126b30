"""What do several processes gain, and where does the rest go? Side by side, of one thread each.

    python -m benchmarks.ranks --task toyqa --processes 1 2 --batch 8 16 --limit 16
    python -m benchmarks.ranks --task musique-full --data DIRECTORY --batch 8 --limit 8

Each row is a run of its own from the start. The gain is that of the time of all mini-batches, with
loading left out. Balance is the mean process's time at its own work over that of the slowest.
Bytes are those that a process gives to others, as gloo is asked to send them. Whether the numbers
of processes did the same work is checked: episodes, preferences and adapters.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowtune_cli.config.resolve import resolve
from flowtune_cli.learning.peers import ALONE, Peers
from flowtune_cli.registry import load_registry
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.training.loop import Report, Trainer
from flowtune_cli.training.place import Place
from flowtune_cli.training.ranks import Ranks
from flowtune_cli.training.session import set_up

Value = TypeVar("Value")


class Counting(Ranks):
    """Counts what going round takes.

    Attributes:
        working: seconds at this process's own work, of what all do together.
        summing: seconds in sums; ``sent`` bytes that this process has given to others.
    """

    working = summing = 0.0
    sent = 0

    def each(self, work: Callable[[], Value]) -> list[Value]:
        def timed() -> Value:
            begun = time.perf_counter()
            try:
                return work()
            finally:
                self.working += time.perf_counter() - begun

        return super().each(timed)

    def total(self, tensor: Tensor) -> Tensor:
        begun = time.perf_counter()
        self.sent += tensor.numel() * tensor.element_size()
        try:
            return super().total(tensor)
        finally:
            self.summing += time.perf_counter() - begun

    def _gather(self, data: bytes) -> list[bytes]:
        self.sent += len(data)
        return super()._gather(data)


def work(given: argparse.Namespace) -> None:
    """Be one process of a run, and write what it took to a file of its own."""
    place = Place.of(os.environ, os.getppid())
    peers: Peers = ALONE if place.size == 1 else Counting(place)
    registry = load_registry()
    overrides = [
        "model.dtype=float32",
        f"training.limit={given.limit}",
        f"training.batch_size={given.batch[0]}",
        f"training.save_every={max(given.batch[0], 100)}",
        *given.set,
    ]
    task_class = registry.task(given.task)
    resolved = resolve(task_class, environ=os.environ, overrides=overrides, registry=registry)
    task = resolved.make_task()
    examples = list(task.examples(given.data, task.splits[0]))
    session = set_up(task, resolved.settings, registry)
    stored = replace(resolved, settings=session.settings).stored
    name = session.settings.model.name
    run = peers.first(
        lambda: RunDirectory.create(given.work, "run", task=task.name, model=name, settings=stored)
    )
    seconds: dict[str, float] = {}
    preferences = [0]

    def measure(report: Report) -> None:
        if report.record is not None:
            preferences[0] += sum(len(trace.preferences) for trace in report.record.traces)
            for phase, value in report.record.timings.items():
                seconds[phase] = seconds.get(phase, 0.0) + value

    trainer = Trainer(session, run, examples, on_report=measure, peers=peers)
    begun = time.perf_counter()
    trainer.train()
    took = {
        "seconds": time.perf_counter() - begun,
        "phases": seconds,
        "episodes": trainer.position.episodes,
        "preferences": preferences[0],
        **{name: getattr(peers, name, 0) for name in ("working", "summing", "sent")},
    }
    (given.work / f"rank-{place.rank}.json").write_text(json.dumps(took))
    if place.rank == 0:
        weights = {
            f"{adapter}/{key}": value
            for adapter in session.adapters.names
            for key, value in session.adapters.state(adapter).items()
        }
        save_file(weights, given.work / "adapters.safetensors")
    if isinstance(peers, Ranks):
        peers.leave()


def launch(given: argparse.Namespace, processes: int, batch: int, folder: Path) -> dict[str, Any]:
    """Train once on so many processes; what they took, and the adapters."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.ranks", "--work", str(folder)]
    command += ["--task", given.task, "--limit", str(given.limit), "--batch", str(batch)]
    command += [] if given.data is None else ["--data", str(given.data)]
    command += [part for each in given.set for part in ("--set", each)]
    started = []
    for rank in range(processes):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            **{name: str(value) for name, value in own.items()},
        }
        started.append(subprocess.Popen(command, env=environment))
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit(f"{processes} processes ended with the codes {codes}")
    ranks = [json.loads((folder / f"rank-{n}.json").read_text()) for n in range(processes)]
    return {"ranks": ranks, "adapters": load_file(folder / "adapters.safetensors")}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest one of two runs' adapters."""
    return max(float((value - other[key]).abs().max()) for key, value in one.items())


def row(found: dict[str, Any], alone: dict[str, Any], batch: int) -> dict[str, Any]:
    """A run's figures, beside that of one process."""
    ranks, first = found["ranks"], found["ranks"][0]
    batches = -(-first["episodes"] // batch)
    working = [rank["working"] for rank in ranks]
    compared = alone["ranks"][0]
    return {
        "processes": len(ranks),
        "batch": batch,
        "seconds": round(first["seconds"], 1),
        "speed-up": round(compared["seconds"] / first["seconds"], 2),
        "play": round(first["phases"]["play and deviate"], 1),
        "learn": round(first["phases"]["learn"], 1),
        "balance": round(sum(working) / len(working) / max(working), 2) if max(working) else 1.0,
        "in sums, s": round(max(rank["summing"] for rank in ranks), 2),
        "kB a mini-batch": round(max(rank["sent"] for rank in ranks) / batches / 1000),
        "preferences": first["preferences"],
        "same work": all(first[name] == compared[name] for name in ("episodes", "preferences")),
        "adapters differ by": f"{difference(found['adapters'], alone['adapters']):.1e}",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--task", default="toyqa")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=int, default=16, help="episodes")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.work is not None:
        torch.set_num_threads(1)
        work(given)
        return
    print(f"{given.task}, {given.limit} episodes, float32, a thread a process")
    titled = False
    with tempfile.TemporaryDirectory() as folder:
        for batch in given.batch:
            alone: dict[str, Any] | None = None
            for processes in given.processes:
                place = Path(folder) / f"{batch}-{processes}"
                found = launch(given, processes, batch, place)
                alone = found if alone is None else alone
                figures = row(found, alone, batch)
                if not titled:
                    print("\t".join(figures))
                    titled = True
                print("\t".join(map(str, figures.values())), flush=True)


if __name__ == "__main__":
    main()
