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
_SETTLE_SECONDS = 0.02
"""How long after an answer a further line may come that nobody asked for. A line that comes after
the next question cannot be told from its answer."""
_END_SECONDS = 0.05
"""How long a worker may take to end after it has closed its stdout."""


class Worker:
    """A program that stays. One example at a time; its methods block.

    Attributes:
        process: the running program.
    """

    def __init__(self, command: Command) -> None:
        self.process = Process(command)
        self._lines: queue.Queue[list[bytes] | None] = queue.Queue()
        self._answered = 0.0
        self._too_long = False
        threading.Thread(target=self._read_lines, daemon=True).start()
        self._finalizer = weakref.finalize(self, _end, self.process)

    def ask(self, line: bytes) -> bytes:
        """Its answer to a line.

        Raises:
            ProgramCrashed: it has ended instead.
            ProgramRubbish: it has printed more than one line, now or since it was asked before.
            ProgramOutputTooLong: its line has no end.
        """
        time.sleep(max(self._answered + _SETTLE_SECONDS - time.monotonic(), 0.0))
        if not self._lines.empty():
            _one_at_most(self._next() or [], "after its answer")
        self.process.write(line + b"\n")
        answers = self._next()
        self._answered = time.monotonic()
        if answers is None:
            if self._too_long:
                raise ProgramOutputTooLong(
                    f"the worker printed a line of more than {MOST_OUTPUT >> 20} MiB"
                )
            raise self._ended()
        # Of several, nobody knows which is the answer.
        _one_at_most(answers[1:], f"with its answer, or before it ({_shown(answers[0])})")
        return answers[0]

    def _next(self) -> list[bytes] | None:
        """The lines that came together next; None for the end, and ever after."""
        lines = self._lines.get()
        if lines is None:
            self._lines.put(None)
        return lines

    def end(self) -> None:
        """Kill it."""
        self._finalizer()

    def _ended(self) -> ProgramCrashed:
        killed = self.process.killed
        # It may have closed its stdout only: without that it is of no use.
        self.process.close_stdin()
        deadline = time.monotonic() + _END_SECONDS
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
                if lines:
                    self._lines.put(lines)
                if len(begun) > MOST_OUTPUT:
                    self._too_long = True
                    self.process.kill()
                    break
        self._lines.put(None)


def _one_at_most(more: list[bytes], when: str) -> None:
    if more:
        raise ProgramRubbish(
            f"the worker printed a line that it was not asked for, {when}: {_shown(more[0])}. It"
            " must print one line an example; all else belongs on stderr"
        )


def _shown(line: bytes) -> str:
    return excerpt(line.decode("utf-8", "replace"))


def _end(process: Process) -> None:
    process.end()
