"""Starts a program in a process group of its own, and ends all of the group with it.

What a program prints counts as far as it has printed it when it ends: children that it leaves, and
that may hold its pipes, are killed then.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .outcome import (
    ProgramCrashed,
    ProgramNotStarted,
    ProgramOutputTooLong,
    with_stderr,
)
from .watchdog import WATCHDOG, kill_group

MOST_OUTPUT = 16 * 1024 * 1024
"""Bytes of a result that are read; a program that prints more has failed."""
_STDERR_TAIL = 8 * 1024
_READ = 64 * 1024
_DRAIN_SECONDS = 2.0
"""How long the end of a pipe is waited for that a process outside the group may still hold."""

# A program begins when it is in the watchdog's list, which the first line of its stdin tells.
_BEGIN = b"begin\n"
_SHELL = ["/bin/sh", "-c", 'read -r _ && exec "$@"', "sh"]


@dataclass(frozen=True)
class Command:
    """What is started: the words of a command, where, and with which variables."""

    words: tuple[str, ...]
    directory: Path
    environ: Mapping[str, str]


class Process:
    """A program that runs. Its methods block, and may be called from any thread.

    Raises:
        ProgramNotStarted: it cannot be started.
    """

    def __init__(self, command: Command) -> None:
        try:
            self._popen = subprocess.Popen(
                [*_SHELL, *command.words],
                cwd=command.directory,
                env=dict(command.environ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise ProgramNotStarted(
                f"'{' '.join(command.words)}' cannot be started in {command.directory}:"
                f" {error.strerror or error}"
            ) from error
        self.group = self._popen.pid
        self._lock = threading.Lock()
        self._is_over = False
        self._killed = False
        self._tail: deque[bytes] = deque()
        _RUNNING.add(self)
        WATCHDOG.add(self.group)
        self._stderr = _thread(self._keep_stderr)
        self.write(_BEGIN)

    @property
    def killed(self) -> bool:
        """It was killed from here, so how it ended says nothing of it."""
        return self._killed

    @property
    def running(self) -> bool:
        """Whether it has not ended yet; one that has ended is not waited for by this."""
        return self._popen.returncode is None and not _has_ended(self._popen.pid)

    @property
    def stdout(self) -> IO[bytes]:
        assert self._popen.stdout is not None
        return self._popen.stdout

    @property
    def stderr_tail(self) -> str:
        """The end of what it has written to stderr."""
        return b"".join(self._tail)[-_STDERR_TAIL:].decode("utf-8", "replace")

    def write(self, data: bytes) -> bool:
        """Write to its stdin; False if it does not read any more."""
        assert self._popen.stdin is not None
        view = memoryview(data)
        try:
            while view:
                view = view[self._popen.stdin.write(view) :]
        except (OSError, ValueError):
            return False
        return True

    def communicate(self, data: bytes) -> bytes:
        """Give it all of its stdin, and wait for its end; returns what it has printed.

        Raises:
            ProgramCrashed: it ended otherwise than with exit code 0, unless it was killed.
            ProgramOutputTooLong: it was killed because it printed too much.
        """
        printed: list[bytes] = []
        writing = _thread(lambda: self._write_all(data))
        reading = _thread(lambda: self._read_all(printed))
        code = self.wait()
        for thread in (reading, writing):
            thread.join(_DRAIN_SECONDS)
        if sum(map(len, printed)) > MOST_OUTPUT:
            raise ProgramOutputTooLong(
                f"the program printed more than {MOST_OUTPUT >> 20} MiB, and was ended"
            )
        if code and not self._killed:
            raise self.crashed(code)
        return b"".join(printed)

    def crashed(self, code: int) -> ProgramCrashed:
        """The failure that an exit code is."""
        how = f"ended with exit code {code}" if code > 0 else f"was ended by {_signal(-code)}"
        return ProgramCrashed(with_stderr(f"the program {how}", self.stderr_tail))

    def close_stdin(self) -> None:
        """Tell it that nothing more will come."""
        assert self._popen.stdin is not None
        with contextlib.suppress(OSError):
            self._popen.stdin.close()

    def kill(self) -> None:
        """Kill it and all of its group."""
        with self._lock:
            if not self._is_over:
                self._killed = True
                kill_group(self.group)

    def wait(self) -> int:
        """Wait for its end, and kill what it has left running; the exit code, or minus a signal."""
        if hasattr(os, "waitid"):
            # It keeps its number until it is asked for its code, so no other group is meant below.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._popen.wait()
        with self._lock:
            if not self._is_over:
                kill_group(self.group)
                self._is_over = True
        code = self._popen.wait()
        WATCHDOG.remove(self.group)
        _RUNNING.discard(self)
        self._stderr.join(_DRAIN_SECONDS)
        return code

    def end(self) -> None:
        """Kill it, wait, and close its pipes."""
        self.kill()
        self.wait()
        self.close_stdin()
        for pipe in (self._popen.stdout, self._popen.stderr):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _write_all(self, data: bytes) -> None:
        self.write(data)
        self.close_stdin()

    def _read_all(self, printed: list[bytes]) -> None:
        total = 0
        with contextlib.suppress(OSError, ValueError):
            while piece := self.stdout.read(_READ):
                printed.append(piece)
                total += len(piece)
                if total > MOST_OUTPUT:
                    self.kill()
                    return

    def _keep_stderr(self) -> None:
        assert self._popen.stderr is not None
        with contextlib.suppress(OSError, ValueError):
            while piece := self._popen.stderr.read(_READ):
                self._tail.append(piece)
                while len(self._tail) > 1 and sum(map(len, self._tail)) > 2 * _STDERR_TAIL:
                    self._tail.popleft()


_RUNNING: set[Process] = set()


@atexit.register
def _end_all() -> None:
    """Where flowtune ends in order, too, no program is left."""
    for process in list(_RUNNING):
        process.end()
    WATCHDOG.close()


def command_words(words: Sequence[str], directory: Path) -> tuple[str, ...] | str:
    """The words of a command with the executable's whole path; or why there is none."""
    import shutil

    first = words[0]
    if os.sep in first:
        path = directory / first
        if not path.is_file():
            return f"there is no file {path}"
        if not os.access(path, os.X_OK):
            return f"{path} is not executable: chmod +x {first}"
        return (str(path), *words[1:])
    found = shutil.which(first)
    return (found, *words[1:]) if found else f"there is no command '{first}' in PATH"


def _has_ended(pid: int) -> bool:
    if not hasattr(os, "waitid"):
        return False
    with contextlib.suppress(ChildProcessError):
        how = os.WEXITED | os.WNOWAIT | os.WNOHANG
        return os.waitid(os.P_PID, pid, how) is not None
    return True


def _thread(function: Any) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def _signal(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
