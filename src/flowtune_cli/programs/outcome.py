"""How a program can fail: each way is an exception of its own, and so an episode's failure."""

from __future__ import annotations


class ProgramFailed(Exception):
    """A program gave no result for an example."""


class ProgramNotStarted(ProgramFailed):
    """The executable could not be started."""


class ProgramCrashed(ProgramFailed):
    """It ended with an exit code that is not 0, or by a signal."""


class ProgramTimedOut(ProgramFailed):
    """It took longer than its time, without what it waited for its nodes."""


class ProgramRubbish(ProgramFailed):
    """What it printed, or returned, is not one JSON value."""


class ProgramOutputTooLong(ProgramFailed):
    """It printed more than is read."""


_SHOWN_LINES = 8
_SHOWN_LETTERS = 200


def with_stderr(message: str, stderr: str) -> str:
    """A message with the last lines that a program wrote to stderr."""
    lines = stderr.strip().splitlines()[-_SHOWN_LINES:]
    if not lines:
        return f"{message}; it wrote nothing to stderr"
    return "\n  ".join([f"{message}; the end of its stderr:", *lines])


def excerpt(text: str) -> str:
    """The beginning of what was printed, in one line."""
    shown = repr(text[:_SHOWN_LETTERS])
    return shown if len(text) <= _SHOWN_LETTERS else f"{shown} ..."
