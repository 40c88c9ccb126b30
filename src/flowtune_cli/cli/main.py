"""The command ``flowtune``: its commands, those of plugins, and what becomes of errors.

Nothing heavy is imported before a command runs, so that ``flowtune --help`` is quick.
"""

from __future__ import annotations

import errno
import io
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from .. import __version__
from ..flow.errors import FlowtuneError, UsageError
from . import shells, stdout
from .allocator import keep_freed_memory
from .check import check
from .command import OwnCommand
from .completion import complete_from
from .config import config
from .doctor import doctor
from .eval import eval
from .evaluate import evaluate
from .export import export
from .inspect import inspect
from .ls import ls
from .merge import merge
from .models import models
from .output import note
from .play import play
from .plugin_commands import plugin_commands
from .plugins import plugins
from .postprocess import postprocess
from .postprocessors import PostProcessorFlags
from .predict import predict
from .report import report
from .runs import runs
from .serve import serve
from .show import show
from .strict_warnings import leave_libraries_out
from .threads import spin_briefly
from .train import train
from .verbosity import QuietOption, VerboseOption, as_usual, is_verbose

COMMANDS = (
    train,
    check,
    play,
    predict,
    serve,
    postprocess,
    evaluate,
    eval,
    inspect,
    report,
    export,
    merge,
    ls,
    show,
    plugins,
    config,
    doctor,
)
GROUPS = (models, runs)
"""Commands that have commands of their own."""

_WRONG_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES)
"""What any look at a path that a user gave may raise, and that is no bug."""


class Commands(TyperGroup):
    """flowtune's own commands, and those of plugins: these are loaded when they are needed."""

    _complete = False

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.own = frozenset(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            self._add_plugin_commands()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        try:
            self._add_plugin_commands()
        except UsageError as error:
            note(f"the commands of plugins are not listed: {error}")
        return super().list_commands(ctx)

    def _add_plugin_commands(self) -> None:
        from ..registry import load_registry

        if self._complete:
            return
        with stdout.foreign():
            registry = load_registry()
            self._complete = True
            self.commands = {**self.commands, **plugin_commands(registry, self.own)}


app = typer.Typer(
    cls=Commands,
    name="flowtune",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # those of all commands, too
)
for function in COMMANDS:
    flags = PostProcessorFlags if function in (predict, postprocess) else OwnCommand
    app.command(cls=flags)(function)
for group in GROUPS:
    app.add_typer(group)


@app.callback(invoke_without_command=True)
def flowtune(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
    install_completion: Annotated[
        str | None,
        typer.Option(
            metavar="[bash|zsh|fish]",
            help="Have the shell complete what is typed, by default that of $SHELL.",
            autocompletion=complete_from(shells.SCRIPTS),
        ),
    ] = None,
    show_completion: Annotated[
        str | None,
        typer.Option(
            metavar="[bash|zsh|fish]",
            help="Print what the shell needs for that.",
            autocompletion=complete_from(shells.SCRIPTS),
        ),
    ] = None,
) -> None:
    """Online joint fine-tuning of whole flows of language-model nodes."""
    if version:
        stdout.write(f"flowtune {__version__}")
        raise typer.Exit()
    if install_completion is not None:
        shells.install(install_completion)
        raise typer.Exit()
    if show_completion is not None:
        shells.show(show_completion)
        raise typer.Exit()
    if context.invoked_subcommand is None:
        stdout.write(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 failed, 2 used wrongly, 130 interrupted."""
    with as_usual():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    keep_freed_memory()
    spin_briefly()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What it cannot show, such as a lone surrogate, is printed as an escape, as on stderr.
        sys.stdout.reconfigure(errors="backslashreplace")
    leave_libraries_out()
    shells.prepare()
    arguments = shells.with_shell(list(sys.argv[1:] if arguments is None else arguments))
    command = get_command(app)
    try:
        with stdout.reserved():
            given = sys.argv[1:] if arguments is None else list(arguments)
            result = command.main(given, prog_name="flowtune", standalone_mode=False, obj=given)
    except FlowtuneError as error:
        _tell_where(error)
        typer.echo(f"flowtune: error: {error}", err=True)
        if error.how_to_go_on:
            typer.echo(error.how_to_go_on, err=True)
        return error.exit_code
    except typer.TyperException as error:
        typer.echo(f"flowtune: error: {error.format_message()}", err=True)
        context = getattr(error, "ctx", None)
        if context is not None:
            typer.echo(f"Try '{context.command_path} --help'.", err=True)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1  # who reads the output wants no more
    except OSError as error:
        if error.errno not in _WRONG_PATH or not isinstance(error.filename, str):
            raise
        _tell_where(error)
        typer.echo(
            f"flowtune: error: {error.filename}: {error.strerror}. Name another file or directory.",
            err=True,
        )
        return 2
    return result if isinstance(result, int) else 0


def _tell_where(error: Exception) -> None:
    """Where an error came from, and which led to it, for one who looks for a fault."""
    if is_verbose():
        typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)
