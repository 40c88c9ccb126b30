"""Programs do not outlive flowtune, however it ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from flowtune_cli.programs import watchdog
from support.processes import python

STARTS = """
import os, sys, time
from pathlib import Path
from flowtune_cli.programs.process import Command, Process

command = "sleep 100 & echo $! >> pids; echo $$ >> pids; sleep 100"
process = Process(Command(("/bin/sh", "-c", command), Path(sys.argv[1]), os.environ))
print(process.group, flush=True)
if sys.argv[2] == "ends":
    time.sleep(0.5)
    sys.exit()
time.sleep(100)
"""


def pids(path: Path) -> list[int]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.exists() and len(found := path.read_text().split()) == 2:
            return [int(each) for each in found]
        time.sleep(0.02)
    raise AssertionError("the program did not start")


def all_gone(numbers: list[int]) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not any(_alive(number) for number in numbers):
            return True
        time.sleep(0.02)
    return False


def _alive(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("how", ["killed", "ends", "interrupted"])
def test_a_program_and_its_children_end_with_flowtune(how: str, tmp_path: Path) -> None:
    with python(STARTS, tmp_path, how) as process:
        started = pids(tmp_path / "pids")
        if how == "killed":
            assert all(map(_alive, started))
            process.kill()
        elif how == "interrupted":
            process.send_signal(signal.SIGTERM)
    assert all_gone(started)


def test_a_watchdog_that_is_killed_is_replaced(tmp_path: Path) -> None:
    dog = watchdog.Watchdog()
    dog.add(2**22 + 1)  # no such group
    assert dog._process is not None
    first = dog._process.pid
    os.kill(first, signal.SIGKILL)
    dog._process.wait()
    dog.add(2**22 + 2)
    assert dog._process.pid != first
    dog.close()
