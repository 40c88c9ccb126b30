"""How long ``flowtune --help`` takes, as a multiple of importing its command-line library alone.

python -m benchmarks.startup

Both are started in turn, so that whatever else the machine does slows both. What counts is the
processor's time of the whole process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

HELP = "import sys; from flowtune_cli.cli.main import main; sys.exit(main(['--help']))"
FLOOR = "import typer"


def cpu_seconds(code: str) -> float:
    """The processor's time of a Python process that runs this code, without that of others."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def ratio(times: int) -> tuple[float, float, float]:
    """Medians of flowtune's and of the library's seconds, and the median of their ratios."""
    pairs = [(cpu_seconds(HELP), cpu_seconds(FLOOR)) for _ in range(times)]
    ours, floor = (statistics.median(each) for each in zip(*pairs, strict=True))
    return ours, floor, statistics.median(a / b for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=15, help="how often each is started")
    times = parser.parse_args().times
    cpu_seconds(HELP)  # writes the byte code
    ours, floor, multiple = ratio(times)
    print(
        f"flowtune --help {ours:.3f} s, import typer {floor:.3f} s: {multiple:.2f} times ({times=})"
    )


if __name__ == "__main__":
    main()
