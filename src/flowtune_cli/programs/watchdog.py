"""Ends the programs that are running when flowtune is killed, however it is killed.

A process of its own holds the reading end of a pipe. Each program's process group is written into
the pipe before the program begins. When flowtune is gone, be it by ``kill -9``, the pipe ends, and
the groups that are left are killed. This needs nothing but pipes and signals, so it is the same on
every POSIX system, and it does not depend on which thread started a program.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

_WATCH = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    sign, group = line[0], int(line[1:])
    groups.add(group) if sign == "+" else groups.discard(group)
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""


class Watchdog:
    """Process groups that end with this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._process: subprocess.Popen[str] | None = None

    def add(self, group: int) -> None:
        """From here on, the group does not outlive this process."""
        with self._lock:
            self._groups.add(group)
            self._say(f"+{group}")

    def remove(self, group: int) -> None:
        """The group has ended."""
        with self._lock:
            if group in self._groups:
                self._groups.discard(group)
                self._say(f"-{group}")

    def _say(self, line: str) -> None:
        if self._process is None or self._process.poll() is not None:
            self._start()
            lines = [f"+{group}" for group in sorted(self._groups)]
        else:
            lines = [line]
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{each}\n" for each in lines))
        self._process.stdin.flush()

    def _start(self) -> None:
        self.close()
        # -S and -I: nothing is imported that it does not need, so it starts within milliseconds.
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-I", "-c", _WATCH],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def close(self) -> None:
        """End the process; with it the groups that are left."""
        if self._process is not None:
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process.wait()
            self._process = None


WATCHDOG = Watchdog()


def kill_group(group: int) -> None:
    """Kill all processes of a group, if there are any."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
