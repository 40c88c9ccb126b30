"""What does a busy machine cost a training, and what does it cost to be ready for one?

    python -m benchmarks.busy

OpenMP's threads wait for each other: by default they spin, which is quickest when they have a core
each, and slow when another program takes one of them away. The command ``flowtune`` has them sleep
soon. A small training, on a random model as wide as the default one, runs with both, alone and
beside one busy process for each core but one. Nothing else should run meanwhile. Fails if not every
training did the same work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flowtune_cli.cli.threads import spin_briefly

SHAPE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 2,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
"""As wide as SmolLM2-135M, which has 30 layers."""

LEFT_OUT = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
"""What is not taken from the environment."""


@dataclass(frozen=True)
class Took:
    """What one training took: seconds by the clock and by the processor, and its work."""

    seconds: float
    cpu_seconds: float
    work: Mapping[str, int]


def serve(model: Path, folder: Path) -> None:
    """Train once for each line on stdin, and print what it took; in a process of its own."""
    from benchmarks.throughput.meter import Meter
    from benchmarks.work import BATCH_SIZE, Small
    from flowtune_cli.config.settings import Settings
    from flowtune_cli.registry import load_registry
    from flowtune_cli.runs.directory import RunDirectory
    from flowtune_cli.training.loop import Trainer
    from flowtune_cli.training.session import set_up

    settings = Settings.model_validate(
        {
            "model": {"name": str(model), "device": "cpu", "dtype": "float32"},
            "learning": {"optimizer": {"name": "adam", "lr": 1e-3}},
            "training": {"batch_size": BATCH_SIZE},
        }
    )
    for number, _ in enumerate(sys.stdin):
        session = set_up(Small(), settings, load_registry())
        meter = Meter(session.adapters.model)
        stored = session.settings.model_dump(mode="json")
        run = RunDirectory.create(folder, str(number), task="small", model="", settings=stored)
        trainer = Trainer(session, run, list(session.task.examples(None, "train")))
        begun, cpu = time.perf_counter(), time.process_time()
        trainer.train()
        took = Took(time.perf_counter() - begun, time.process_time() - cpu, asdict(meter.work))
        print(json.dumps(asdict(took)), flush=True)


@contextmanager
def training(model: Path, folder: Path, environ: Mapping[str, str]) -> Iterator[Any]:
    """A process that trains when it is asked to; gives a function that asks."""
    command = [sys.executable, "-m", "benchmarks.busy", "--serve", str(model), str(folder)]
    with subprocess.Popen(
        command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def train() -> Took:
            assert process.stdin is not None
            assert process.stdout is not None
            print(file=process.stdin, flush=True)
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("a training failed; see above")
            return Took(**json.loads(line))

        try:
            yield train
        finally:
            process.kill()


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    code = "while True: pass"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def environments() -> dict[str, dict[str, str]]:
    """By name: OpenMP's defaults, and what the command sets."""
    plain = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(plain)
        spin_briefly()
        briefly = dict(os.environ)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return {"spinning": plain, "spinning briefly": briefly}


def measure(
    folder: Path, chosen: Mapping[str, Mapping[str, str]], rounds: int, busy: int
) -> dict[str, dict[str, list[Took]]]:
    """Trainings by turns: for each environment, those alone and those beside busy processes."""
    from benchmarks.work import save_tiny_model

    model = folder / "model"
    save_tiny_model(model, shape=SHAPE)
    found: dict[str, dict[str, list[Took]]] = {n: {"alone": [], "beside": []} for n in chosen}
    with ExitStack() as stack:
        trains = {}
        for number, (name, environ) in enumerate(chosen.items()):
            runs = folder / str(number)
            runs.mkdir()
            trains[name] = stack.enter_context(training(model, runs, environ))
            trains[name]()  # the first proves the model and warms up
        for place, processes in (("alone", 0), ("beside", busy)):
            with busy_processes(processes):
                for _ in range(rounds):
                    for name, train in trains.items():
                        found[name][place].append(train())
    return found


def report(found: Mapping[str, Mapping[str, Sequence[Took]]]) -> str:
    """The medians and their ratios."""
    seconds = {
        (name, place): statistics.median(took.seconds for took in tooks)
        for name, places in found.items()
        for place, tooks in places.items()
    }
    first = next(iter(found))
    lines = [f"{'':20}{'alone, s':>10}{'cost':>8}{'beside, s':>11}{'times':>7}"]
    for name in found:
        alone, beside = seconds[name, "alone"], seconds[name, "beside"]
        cost = alone / seconds[first, "alone"] - 1
        lines.append(f"{name:20}{alone:10.2f}{cost:+8.1%}{beside:11.2f}{beside / alone:7.2f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=max((os.cpu_count() or 2) - 1, 1))
    parser.add_argument("--spins", nargs="*", default=[], help="other values of GOMP_SPINCOUNT")
    parser.add_argument("--serve", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.serve:
        serve(*given.serve)
        return 0
    chosen = environments()
    for spins in given.spins:
        chosen[f"{spins} spins"] = {**chosen["spinning"], "GOMP_SPINCOUNT": spins}
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), chosen, given.rounds, given.busy)
    print(report(found))
    work = [took.work for places in found.values() for tooks in places.values() for took in tooks]
    print(f"work of each training: {work[0]}")
    if any(other != work[0] for other in work):
        print("busy: error: trainings did different work", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
