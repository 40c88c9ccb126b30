"""``--processes N``: starts a command N times on this machine, each with its rank, and waits."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from .output import note

LAUNCHER = "_FLOWTUNE_LAUNCHER_PID"
"""The variable with the process that has started the others: without it they stop, too."""

_GRACE_SECONDS = 30.0
"""After one has failed, the others end by themselves, and say why; these are stopped after it."""


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run this command with these arguments as so many processes.

    Ctrl-C and SIGTERM go on to all of them.

    Returns:
        The exit code: that of rank 0, or the first other one that is not 0.
    """
    command = [sys.executable, "-m", "flowtune_cli", *arguments]
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        LAUNCHER: str(os.getpid()),
    }
    common.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // processes)))
    children: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: Any) -> None:
        _signal(children, number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        for rank in range(processes):
            environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            # In sessions of their own, a terminal's Ctrl-C comes to them through this process.
            child = subprocess.Popen(command, env=environment, start_new_session=True)
            children.append(child)
        return _wait(children)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int:
    failed_at: float | None = None
    told = set()
    while None in [child.poll() for child in children]:
        time.sleep(0.05)
        for rank, child in enumerate(children):
            if child.returncode and rank not in told:
                told.add(rank)
                if failed_at is None and child.returncode < 0:
                    name = signal.Signals(-child.returncode).name
                    note(f"rank {rank} (process {child.pid}) was ended by {name}")
                    _signal(children, signal.SIGTERM)
                failed_at = failed_at or time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > _GRACE_SECONDS:
            for child in children:
                child.kill()
    codes = [child.returncode for child in children]
    failed = [code for code in codes if code]
    # A signal's number is how shells tell of it.
    code = codes[0] if codes[0] > 0 else next((c for c in failed if c > 0), min(codes, default=0))
    return code if code >= 0 else 128 - code


def _signal(children: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def _cores() -> int:
    available = getattr(os, "sched_getaffinity", None)
    return len(available(0)) if available else os.cpu_count() or 1
