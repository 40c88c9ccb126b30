"""Persistent workers: programs that read one line an example, and print one line for each."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import weakref

from .outcome import ProgramCrashed, ProgramOutputTooLong, ProgramRubbish, excerpt, with_stderr
from .process import MOST_OUTPUT, Command, Process

_READ = 64 * 1024
_SETTLE_SECONDS = 0.05
"""How long a second line may take to show after the first, where a worker prints too many."""


class Worker:
    """A program that stays. One example at a time; its methods block.

    Attributes:
        process: the running program.
    """

    def __init__(self, command: Command) -> None:
        self.process = Process(command)
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._too_long = False
        threading.Thread(target=self._read_lines, daemon=True).start()
        self._finalizer = weakref.finalize(self, _end, self.process)

    @property
    def usable(self) -> bool:
        """Whether it waits for its next line, with nothing printed since its last answer."""
        return self._lines.empty() and not self.process.killed

    def ask(self, line: bytes) -> bytes:
        """Its answer to a line.

        Raises:
            ProgramCrashed: it has ended instead.
            ProgramRubbish: it had printed a line more than it was asked for.
            ProgramOutputTooLong: its line has no end.
        """
        if not self._lines.empty():
            extra = self._lines.get()
            if extra is not None:
                text = extra.decode("utf-8", "replace")
                raise ProgramRubbish(
                    "the worker printed a line that it was not asked for, after its answer:"
                    f" {excerpt(text)}. It must print one line an example; all else belongs on"
                    " stderr"
                )
            self._lines.put(None)
        self.process.write(line + b"\n")
        answer = self._lines.get()
        if answer is None:
            self._lines.put(None)
            if self._too_long:
                raise ProgramOutputTooLong(
                    f"the worker printed a line of more than {MOST_OUTPUT >> 20} MiB"
                )
            raise self._ended()
        return answer

    def end(self) -> None:
        """Kill it."""
        self._finalizer()

    def _ended(self) -> ProgramCrashed:
        killed = self.process.killed
        # It may have closed its stdout only: without that it is of no use.
        self.process.close_stdin()
        deadline = time.monotonic() + _SETTLE_SECONDS
        while self.process.running and time.monotonic() < deadline:
            time.sleep(0.005)
        if not self.process.running and not killed:
            code = self.process.wait()
            if code:
                return self.process.crashed(code)
        self.process.kill()
        return ProgramCrashed(
            with_stderr("the worker ended without an answer", self.process.stderr_tail)
        )

    def _read_lines(self) -> None:
        begun = b""
        with contextlib.suppress(OSError, ValueError):
            while piece := self.process.stdout.read(_READ):
                *lines, begun = (begun + piece).split(b"\n")
                for line in lines:
                    self._lines.put(line)
                if len(begun) > MOST_OUTPUT:
                    self._too_long = True
                    self.process.kill()
                    break
        self._lines.put(None)


def _end(process: Process) -> None:
    process.end()
