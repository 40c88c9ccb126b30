"""How long flowtune takes to start, beside importing the libraries that it needs alone.

    python -m benchmarks.startup

``flowtune --help`` is measured against its command-line library, as a multiple, and the first batch
of training, of one example on a model of two layers, against torch, transformers and peft: in
seconds more. Both of a pair are started in turn, so that whatever else the machine does slows both.
What counts is the processor's time of the whole process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HELP = "import sys; from flowtune_cli.cli.main import main; sys.exit(main(['--help']))"
FLOOR = "import typer"
TRAIN_FLOOR = "import torch, transformers, peft"


def train(model: Path, runs: Path) -> str:
    """The code that trains on one example."""
    settings = {
        "model.name": model,
        "model.dtype": "float32",
        "training.batch_size": 1,
        "run.directory": runs,
    }
    arguments = ["train", "toyqa", "--limit", "1"]
    for name, value in settings.items():
        arguments += ["--set", f"{name}={value}"]
    return f"import sys; from flowtune_cli.cli.main import main; sys.exit(main({arguments!r}))"


def cpu_seconds(code: str) -> float:
    """The processor's time of a Python process that runs this code, without that of others."""
    before = os.times()
    subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=True,
    )
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def medians(ours: str, floor: str, times: int) -> tuple[float, float, float, float]:
    """Medians of both programs' seconds, of their ratios, and of their differences."""
    pairs = [(cpu_seconds(ours), cpu_seconds(floor)) for _ in range(times)]
    first, second = (statistics.median(each) for each in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    return first, second, ratio, statistics.median(a - b for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=15, help="how often each is started")
    times = parser.parse_args().times
    cpu_seconds(HELP)  # writes the byte code
    ours, floor, ratio, _ = medians(HELP, FLOOR, times)
    print(f"flowtune --help {ours:.3f} s, import typer {floor:.3f} s: {ratio:.2f} times ({times=})")

    from benchmarks.work import save_tiny_model

    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory, "model")
        save_tiny_model(model, context=4096)
        code = train(model, Path(directory, "runs"))
        cpu_seconds(code)
        ours, floor, _, more = medians(code, TRAIN_FLOOR, times)
    print(
        f"flowtune train, first batch {ours:.2f} s, {TRAIN_FLOOR} {floor:.2f} s:"
        f" {more:+.2f} s ({times=})"
    )


if __name__ == "__main__":
    main()
