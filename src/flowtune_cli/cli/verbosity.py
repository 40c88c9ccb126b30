"""How much a command tells on stderr: ``--quiet``, as usual, or ``--verbose``."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.main import get_command

from ..flow.errors import UsageError

_QUIET, _USUAL, _VERBOSE = -1, 0, 1
_level = _USUAL
_silent = False
_undo = contextlib.ExitStack()
"""What ends with the command that was verbose."""


def is_quiet() -> bool:
    """Whether only warnings and errors are told."""
    return _silent or _level == _QUIET


def is_silent() -> bool:
    """Whether nothing but the error that ends the command is told."""
    return _silent


def be_silent(silent: bool = True) -> None:
    """Tell nothing: of several processes that do the same, one speaks."""
    global _silent
    _silent = silent


def is_verbose() -> bool:
    """Whether that which helps to find a fault is told, too."""
    return not _silent and _level == _VERBOSE


@contextlib.contextmanager
def as_usual() -> Iterator[None]:
    """Within, it is as usual until an option says otherwise."""
    global _level
    _level = _USUAL
    try:
        yield
    finally:
        _level = _USUAL
        _undo.close()


def _be_quiet(value: bool) -> None:
    if value:
        _choose(_QUIET)


def _be_verbose(value: bool) -> None:
    if value and not is_verbose():
        _choose(_VERBOSE)
        _let_libraries_talk()


QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Tell only warnings and errors.", callback=_be_quiet, is_eager=True
    ),
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Tell what helps to find a fault: tracebacks, libraries' warnings, where settings come"
        " from, and how long things take.",
        callback=_be_verbose,
        is_eager=True,
    ),
]


def parameters() -> list[Any]:
    """Both options, to be added to a command, whose function is not given them."""
    single = typer.Typer(add_completion=False, rich_markup_mode=None)

    @single.command()
    def levels(verbose: VerboseOption = False, quiet: QuietOption = False) -> None: ...

    command: Any = get_command(single)
    for option in command.params:
        option.expose_value = False
    return list(command.params)


def _choose(level: int) -> None:
    global _level
    if _level not in (_USUAL, level):
        raise UsageError("--quiet and --verbose contradict each other: leave one of them out")
    _level = level


def _let_libraries_talk() -> None:
    """Show their logs and warnings on stderr, until the command ends.

    Whoever silences one of them asks the logger "flowtune_cli" whether it is enabled for DEBUG.
    """
    own, root = logging.getLogger("flowtune_cli"), logging.getLogger()
    levels = own.level, root.level
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(name)s: %(levelname)s: %(message)s"))
    root.addHandler(handler)
    own.setLevel(logging.DEBUG)
    root.setLevel(logging.INFO)

    def restore() -> None:
        own.setLevel(levels[0])
        root.setLevel(levels[1])
        root.removeHandler(handler)

    _undo.callback(restore)
    _undo.enter_context(warnings.catch_warnings())
    if not sys.warnoptions:
        warnings.simplefilter("default")
