"""The stages, in their order, and what runs them: each in a process of its own, within its time.

A process of its own, because an error on a GPU ends all that a process can do there, and memory
that one stage leaves is missing to the next. What a stage has found so far is in its file, also if
it was stopped; a stage that has a file is not run again unless it is named.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import write_json
from benchmarks.gpu.receive import environment
from benchmarks.gpu.result import Result
from benchmarks.gpu.sources import ROOT, write_metadata
from benchmarks.gpu.table import markdown


@dataclass(frozen=True)
class Stage:
    """A stage: ``run(result, options)`` of its module is called.

    Args:
        seconds: when it is stopped.
        least: it is not begun with fewer seconds left.
    """

    name: str
    about: str
    module: str
    seconds: int
    least: int = 15


@dataclass(frozen=True)
class Options:
    """What a stage is to do.

    Args:
        state: the folder with what was received.
        tiny: sizes for a processor, to test the stages themselves.
        seconds: until it is stopped.
    """

    stage: str
    state: Path
    tiny: bool
    seconds: float

    @property
    def device(self) -> str:
        return "cpu" if self.tiny else "cuda"

    @property
    def file(self) -> Path:
        return result_file(self.state, self.stage, self.tiny)


def result_file(state: Path, stage: str, tiny: bool) -> Path:
    """Where a stage's result is; a trial at tiny sizes stands for no other."""
    return state / ("tiny-results" if tiny else "results") / f"{stage}.json"


STAGES = (
    Stage("about", "versions, card, speeds of the card", "about", 40),
    Stage("architectures", "what the engine computes is what models do", "architectures", 90),
    Stage("tests", "tests of engine and learning on the device", "tests", 90),
    Stage("determinism", "a tiny training twice", "determinism", 60),
    Stage("llama-8b", "speed at the shape of Llama-3-8B, random weights", "large", 90, 45),
    Stage("model", "the bundled model converted", "model", 60),
    Stage("train", "the bundled model trained, in large mini-batches", "train", 75, 40),
    Stage("phi-14b", "speed at the shape of Phi-3-medium, random weights", "large", 90, 45),
    Stage("nf4", "4-bit weights", "nf4", 45, 30),
)


def run(
    state: Path,
    out: Path,
    *,
    minutes: float,
    names: Sequence[str] = (),
    tiny: bool = False,
) -> int:
    """Run the stages that have no result yet, or those that are named; then write ``out``.

    ``out`` gets ``results.json`` and ``results.md`` after every stage, and ``log.txt``.

    Returns:
        How many stages have failed, were stopped, or have not been run.
    """
    unknown = set(names) - {stage.name for stage in STAGES}
    if unknown:
        raise SystemExit(
            f"no stage '{min(unknown)}'; there are: {', '.join(s.name for s in STAGES)}"
        )
    end = time.monotonic() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    write_metadata(state / "site")
    for stage in STAGES:
        file = result_file(state, stage.name, tiny)
        known = _read(file)
        has_result = known is not None and known["state"] != "running"
        if stage.name not in names and (names or has_result):
            continue
        left = end - time.monotonic()
        if left < (1 if tiny else stage.least):
            _say(f"{stage.name}: {left:.0f} s are left, which is too little: run it again")
            continue
        _say(f"{stage.name}: {stage.about} (at most {min(left, stage.seconds):.0f} s)")
        _run_stage(stage, state, out, min(left, stage.seconds), tiny)
        write_out(state, out, tiny)
    results = write_out(state, out, tiny)
    good = [result for result in results if result["state"] == "done"]
    return len(STAGES) - len(good)


def _run_stage(stage: Stage, state: Path, out: Path, seconds: float, tiny: bool) -> None:
    file = result_file(state, stage.name, tiny)
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu", "stage", stage.name]
    command += ["--state", str(state), "--seconds", f"{seconds:.0f}", *["--tiny"] * tiny]
    with (out / "log.txt").open("ab") as log:
        log.write(f"\n== {stage.name}\n".encode())
        log.flush()
        begin = log.tell()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(state.resolve()),
            stdout=log,
            stderr=subprocess.STDOUT,
            # A group of its own, to be ended with what it starts; not a session of its own, which
            # would outlive this one.
            preexec_fn=os.setpgrp,
        )
        try:
            code: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    with (out / "log.txt").open("rb") as log:
        log.seek(begin)
        tail = log.read()[-4000:].decode(errors="replace")
    content = _read(file) or {"stage": stage.name, "seconds": 0, "figures": {}, "failures": {}}
    if content.get("state") in ("done", "failed") and code is not None:
        _say(f"{stage.name}: {content['state']} in {content['seconds']:.0f} s")
        return
    content["state"] = "stopped" if code is None else "crashed"
    why = f"stopped after {seconds:.0f} s" if code is None else f"ended with exit status {code}"
    content["failures"]["process"] = f"{why}; it wrote last:\n{tail}"
    write_json(file, content)
    _say(f"{stage.name}: {why}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def write_out(state: Path, out: Path, tiny: bool) -> list[dict[str, Any]]:
    """Write all results so far as JSON and as a page; stages that were not run are left out."""
    found = [_read(result_file(state, stage.name, tiny)) for stage in STAGES]
    results = [result for result in found if result is not None]
    write_json(out / "results.json", results)
    page = out / "results.md"
    temporary = page.with_name(".results.md")
    temporary.write_text(markdown(results), encoding="utf-8")
    temporary.replace(page)
    return results


def run_in_this_process(options: Options) -> int:
    """Run one stage here; its result is in the state folder."""
    (stage,) = (stage for stage in STAGES if stage.name == options.stage)
    result = Result(options.file, stage.name)
    with result.step("stage"):
        importlib.import_module(f"benchmarks.gpu.{stage.module}").run(result, options)
    return 0 if result.end() else 1


def _read(file: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
