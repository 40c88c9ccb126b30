"""A command that several processes run together: rank 0 speaks for all, unless it is lost."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ..flow.errors import FlowtuneError, UsageError
from . import stdout, verbosity
from .launch import LAUNCHER, launch
from .output import note

if TYPE_CHECKING:
    from ..learning.peers import Peers
    from ..training.place import Place

ProcessesOption = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Run as so many processes of this machine, one for a GPU."
    ),
]


def own_place() -> Place:
    """The place of this process among those that were started for one run.

    Raises:
        UsageError: the launcher's variables make no sense.
    """
    from ..training.place import Place

    return Place.of(os.environ, os.getppid())


def check_alone(command: str) -> None:
    """Check that a command was started as one process.

    Raises:
        UsageError: a launcher has started several, which would all do and write the same.
    """
    size = own_place().size
    if size > 1:
        raise UsageError(
            f"'flowtune {command}' runs in one process, and a launcher has started {size}: start"
            " it without the launcher, or unset WORLD_SIZE. 'flowtune train', 'predict' and 'eval'"
            " run in several."
        )


def launched(place: Place, processes: int | None, arguments: Sequence[str]) -> int | None:
    """Run the command as the processes that ``--processes`` asks for, if it is not one of them.

    Args:
        arguments: those that this process was given.

    Returns:
        The exit code; None if this process is to run the command itself.

    Raises:
        UsageError: a launcher has started another number.
    """
    if processes in (None, place.size):
        return None
    if place.size > 1:
        raise UsageError(
            f"--processes is {processes}, but the launcher has started {place.size}: leave it out"
        )
    assert processes is not None
    with stdout.given_back():  # to rank 0, whose output is the command's
        return launch(processes, arguments)


@contextmanager
def together(place: Place) -> Iterator[Peers]:
    """In this block, this process is one of those that its launcher has started.

    An error of one ends all: rank 0 raises it, naming the rank, and the others end in silence.
    """
    if place.size == 1:
        from ..learning.peers import ALONE

        yield ALONE
        return
    # Else torch tells of a lost process in a hundred lines, before the one of ours.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from ..training.ranks import Ranks

    if place.rank:
        verbosity.be_silent()
    launcher = os.environ.get(LAUNCHER)
    ranks = Ranks(place, launcher=None if launcher is None else int(launcher))
    # Registered before all else, so that it runs after all else.
    end = _End()
    atexit.register(end)
    try:
        yield ranks
    except BaseException as error:
        code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
        # A launcher ends the others as soon as one has failed; the error is to be told first.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ranks.leave(error)
        if ranks.must_exit_at_once:
            end.code = code
        if ranks.speaks:
            verbosity.be_silent(False)
            if ranks.is_to_blame:
                _name(ranks.name(ranks.rank), error)
            raise
        raise typer.Exit(code) from None
    ranks.leave()


def _name(who: str, error: BaseException) -> None:
    """Name the process that has failed, unless it was used wrongly."""
    if isinstance(error, FlowtuneError):
        if not isinstance(error, UsageError):
            error.args = (f"{who}: {error}",)
    elif isinstance(error, Exception):
        note(f"{who} failed unexpectedly")


class _End:
    """Ends the process where threads of a library would hold up its end."""

    code: int | None = None

    def __call__(self) -> None:
        if self.code is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.code)
