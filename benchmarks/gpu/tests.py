"""Tests of engine, learning and training on the device, by pytest.

Their fixtures put the tiny model where FLOWTUNE_TEST_DEVICE says.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from benchmarks.gpu.result import Result
from benchmarks.gpu.sources import ROOT
from benchmarks.gpu.stages import Options

SELECTED = (
    "tests/engine/test_adapters.py",
    "tests/engine/test_decode_cache.py",
    "tests/engine/test_decoding.py",
    "tests/engine/test_engine.py",
    "tests/engine/test_forward.py",
    "tests/engine/test_padded.py",
    "tests/engine/test_prefill.py",
    "tests/engine/test_prefix_cache.py",
    "tests/engine/test_proof.py",
    "tests/engine/test_recomputing.py",
    "tests/engine/test_scoring.py",
    "tests/engine/test_short_of_memory.py",
    "tests/learning",
    "tests/training/test_checkpoint.py",
    "tests/training/test_loop.py",
)
TINY = ("tests/engine/test_padded.py",)
PROCESSES = 8
TO_WRITE = 8.0
"""Seconds that are left to pytest to write what it has found."""


def run(result: Result, options: Options) -> None:
    selected = TINY if options.tiny else [name for name in SELECTED if (ROOT / name).exists()]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", *selected, f"--junitxml={report}"]
        command += ["-m", "not model", "-p", "no:cacheprovider", "-W", "default", "--tb=short"]
        processes = min(PROCESSES, os.cpu_count() or 1)
        if not options.tiny and importlib.util.find_spec("xdist") is not None:
            command += ["-n", str(processes), "--dist", "worksteal"]
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "FLOWTUNE_TEST_DEVICE": options.device}
        )
        try:
            code = process.wait(timeout=max(options.seconds - TO_WRITE - 5, 10))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            result.fail("time", f"the tests were stopped after {options.seconds:.0f} s")
            code = process.wait(timeout=TO_WRITE)
        if not report.exists():
            raise RuntimeError(f"pytest ended with {code} and wrote no report")
        _read(report, result)


def _read(report: Path, result: Result) -> None:
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        wrong = [child for child in case if child.tag in ("failure", "error")]
        if wrong:
            counts["failed"] += 1
            result.fail(name, (wrong[0].text or wrong[0].get("message") or "")[-3000:])
        else:
            counts["skipped" if case.find("skipped") is not None else "passed"] += 1
    result.add(**counts)
    if not counts["passed"]:
        result.fail("all", "no test has passed")
