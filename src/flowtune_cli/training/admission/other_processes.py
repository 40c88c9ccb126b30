"""Plays recorded episodes again in other processes, where sets have another order, on another day.

A text's hash, and so the order of a set, is drawn anew for each process. A set of two texts has the
same order in half of all processes, so several are asked.

python -m flowtune_cli.training.admission.other_processes FILE OUT [--later]
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...flow.task import Task
from ...runtime.event_loop import EpisodeLimits
from ...runtime.second_play import LONGEST_SECONDS, Recorded, play_again
from ...runtime.shifted_clock import shifted_clock
from ...runtime.tolerant_replay import Difference
from .differences import ELSEWHERE, LATER, difference_findings
from .finding import Finding

PROCESSES = 3
_GRACE_SECONDS = 60.0
"""For loading plugins, on top of the flows' own time."""

Found = list["list[Difference] | None"]


@dataclass(frozen=True)
class _Work:
    """What a process is asked: plain values, and what only the plugins' classes can read.

    Args:
        settings: all of them, as a run stores them.
        recorded: a list of ``Recorded``, pickled.
    """

    task: str
    settings: Mapping[str, Any]
    recorded: bytes
    limits: EpisodeLimits


def elsewhere_findings(
    task: Task,
    settings: Mapping[str, Any],
    recorded: Sequence[Recorded],
    limits: EpisodeLimits,
    known: Sequence[Finding] = (),
) -> list[Finding]:
    """What differs when the episodes are played again in other processes.

    Args:
        task: a registered one; the other processes make it anew.
        settings: as a run stores them.
        limits: of an episode that is played again.
        known: what is found there as well is left out.
    """
    if not recorded:
        return []
    try:
        work = _Work(task.name, settings, pickle.dumps(list(recorded)), limits)
    except Exception as error:  # whatever a class of a plugin raises
        return [_unseen(f"what was recorded cannot be pickled: {error}")]
    with tempfile.TemporaryDirectory(prefix="flowtune-check-") as directory:
        file = Path(directory) / "work"
        file.write_bytes(pickle.dumps(work))
        with contextlib.ExitStack() as stack:
            started = [_start(file, number, stack) for number in range(PROCESSES)]
            answers = [_answer(process, out) for process, out in started]
    findings: list[Finding] = []
    seen = {(each.node, each.place) for each in known if each.code == "request-differs"}
    for answer in answers:
        if isinstance(answer, str):
            findings.append(_unseen(answer))
            continue
        for when, found in answer.items():
            new = [
                finding
                for finding in difference_findings(recorded, found, when)
                if (finding.node, finding.place) not in seen
            ]
            findings += new
            seen |= {(finding.node, finding.place) for finding in new}
    return findings


def _unseen(why: str) -> Finding:
    return Finding(
        "not-replayed-elsewhere",
        "note",
        "it was not seen whether the flow asks the same in another process (where a set has another"
        f" order): {why}",
        "Let what nodes and effects return, and the examples' inputs, be values that can be"
        " pickled.",
    )


def _start(
    work: Path, number: int, stack: contextlib.ExitStack
) -> tuple[subprocess.Popen[bytes], Path]:
    """A process with a hash seed of its own, which ends with the stack."""
    out = work.with_name(f"out-{number}")
    seeds = [seed for seed in range(1, PROCESSES + 2) if str(seed) != os.getenv("PYTHONHASHSEED")]
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    environ = {**os.environ, "PYTHONHASHSEED": str(seeds[number]), "PYTHONPATH": paths}
    command = [sys.executable, "-m", __name__, str(work), str(out), *(["--later"] * (number == 0))]
    nothing = subprocess.DEVNULL
    process = stack.enter_context(
        subprocess.Popen(
            command, env=environ, stdin=nothing, stdout=nothing, stderr=subprocess.PIPE
        )
    )
    stack.callback(process.kill)
    return process, out


def _answer(process: subprocess.Popen[bytes], out: Path) -> dict[str, Found] | str:
    """What a process found, by how it played; or why there is nothing."""
    try:
        _, said = process.communicate(timeout=2 * LONGEST_SECONDS + _GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        return "it took too long"
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines()
        return f"the process ended with {process.returncode}: {lines[-1] if lines else 'silently'}"
    answer: dict[str, Found] = pickle.loads(out.read_bytes())
    return answer


def main(work: Path, out: Path, later: bool) -> None:
    """Do the work of such a process."""
    from ...config.resolve import restore
    from ...programs.find import find_stored
    from ...registry import load_registry

    asked: _Work = pickle.loads(work.read_bytes())
    registry = load_registry()
    task_class = find_stored(registry, asked.task, asked.settings["tasks"])
    task = restore(task_class, asked.settings, "that is checked", registry).make_task()
    recorded: list[Recorded] = pickle.loads(asked.recorded)
    answer = {ELSEWHERE: play_again(task, recorded, limits=asked.limits)}
    if later:
        with shifted_clock(_package(task)):
            found = play_again(task, recorded, limits=asked.limits)
        answer[LATER] = [_requests(differences) for differences in found]
    out.write_bytes(pickle.dumps(answer))


def _package(task: Task) -> str:
    """The package of the flow's own modules."""
    module: str = getattr(task, "flow_module", type(task).__module__)
    return module.partition(".")[0]


def _requests(differences: list[Difference] | None) -> list[Difference]:
    """A flow may fail for no other reason than that clocks do not agree."""
    return [each for each in differences or () if each.what != "failure"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), "--later" in sys.argv)
