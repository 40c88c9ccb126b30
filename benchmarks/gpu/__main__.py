"""Checks and measures flowtune on a machine that has a GPU and no network. See docs/gpu.md.

python -m benchmarks.gpu bundle FOLDER             what that machine lacks, in parts to carry
python -m benchmarks.gpu receive PARTS --state S   there: take parts, as they come
python -m benchmarks.gpu run --state S --out O     there: all stages that have no result yet
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def arguments() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    bundle = commands.add_parser("bundle", help="gather what the machine lacks")
    bundle.add_argument("folder", type=Path)
    bundle.add_argument("--data", type=Path, help="a folder of files that go along")

    receive = commands.add_parser("receive", help="take parts that were carried")
    receive.add_argument("folder", type=Path)
    receive.add_argument("--state", type=Path, required=True)

    run = commands.add_parser("run", help="run the stages")
    run.add_argument("--state", type=Path, required=True)
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--minutes", type=float, default=7.0)
    run.add_argument("--stages", nargs="+", default=[], help="these alone, also if they were run")
    run.add_argument("--tiny", action="store_true", help="tiny sizes on the processor, as a test")

    stage = commands.add_parser("stage", help="run one stage in this process")
    stage.add_argument("stage")
    stage.add_argument("--state", type=Path, required=True)
    stage.add_argument("--seconds", type=float, default=600.0)
    stage.add_argument("--tiny", action="store_true")

    return parser


def main(argv: list[str] | None = None) -> int:
    given = arguments().parse_args(argv)
    # Imported late: what receives parts runs where nothing else can be imported.
    if given.command == "bundle":
        from benchmarks.gpu.bundle import bundle as make

        for file in make(given.folder, given.data):
            places = sorted({part.folder for part in file.parts}, key=int)
            print(f"{file.name}  {file.bytes / 2**20:.1f} MiB  in {', '.join(places)}")
        return 0
    if given.command == "receive":
        from benchmarks.gpu.receive import receive as take

        for line in take(given.folder, given.state):
            print(line)
        return 0
    from benchmarks.gpu import stages

    if given.command == "run":
        return min(
            stages.run(
                given.state.resolve(),
                given.out.resolve(),
                minutes=given.minutes,
                names=given.stages,
                tiny=given.tiny,
            ),
            1,
        )
    options = stages.Options(given.stage, given.state.resolve(), given.tiny, given.seconds)
    return stages.run_in_this_process(options)


if __name__ == "__main__":
    sys.exit(main())
