"""Errors with messages for users. Any other exception is a bug and shows a traceback."""

from __future__ import annotations

from collections.abc import Sequence


class FlowtuneError(Exception):
    """Something failed, and the message says what, where and what to do. Exit code 1.

    Attributes:
        how_to_go_on: shown below the message by who tells of it, such as a command.
    """

    exit_code = 1
    how_to_go_on = ""


class UsageError(FlowtuneError):
    """Wrong use: a setting, a name or an input that flowtune cannot work with. Exit code 2."""

    exit_code = 2


class DataError(UsageError):
    """A data file or record cannot be used; the message names the file and the line."""


class ReplayError(FlowtuneError):
    """A flow did not make the same calls when its recorded outputs were replayed."""


class FlowFailed(FlowtuneError):
    """A flow that was called ended in an exception of its own.

    Attributes:
        traceback: of that exception.
    """

    def __init__(self, error: str, traceback: str) -> None:
        super().__init__(f"the flow failed: {error}")
        self.traceback = traceback


def unknown_name(kind: str, name: str, known: list[str]) -> UsageError:
    """The error for an unknown name, with the closest known one as a suggestion."""
    listing = ", ".join(sorted(known)) if known else "none"
    return UsageError(f"unknown {kind} '{name}'.{did_you_mean(name, known)} Known: {listing}.")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """A sentence that suggests the closest known name, after a blank; empty if none is close."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def missing_package(purpose: str, package: str, extra: str) -> UsageError:
    """The error for a package that only an extra of flowtune installs.

    Args:
        purpose: what needs it, such as "--web".
    """
    return UsageError(f"{purpose} needs the package {package}: pip install 'flowtune[{extra}]'")
