"""Trains ToyQA on the default model in minutes, and shows what came of it.

python -m examples.demo
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from benchmarks.learning import learn, table

NEXT = """Next, try:
  flowtune play toyqa --deviate --run {run}
      one question, its deviations and the preferences that they make
  flowtune train toyqa
      a longer training
  flowtune train musique-full --data DIRECTORY
      the paper's task
  flowtune ls tasks
      what else is installed
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=48, help="episodes to train on")
    parser.add_argument("--questions", type=int, default=32, help="unseen questions to play")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    given = parser.parse_args()
    number = 1
    while (given.runs / f"demo-{number:03}").exists():
        number += 1
    row = learn(
        "toyqa",
        directory=given.runs,
        name=f"demo-{number:03}",
        seed=1,
        limit=given.limit,
        questions=given.questions,
    )
    console = Console()
    console.print(table([row], f"ToyQA, on {given.questions} questions that it never saw"))
    minutes = sum(row["seconds"].values()) / 60
    console.print(f"{minutes:.1f} minutes; the run is in {row['run']}")
    console.print(NEXT.format(run=row["run"]), highlight=False)


if __name__ == "__main__":
    main()
