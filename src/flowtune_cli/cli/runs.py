"""``flowtune runs``: remove and rename runs, and say what they are, by tags and a note."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from ..flow.errors import UsageError
from ..runs.directory import RunDirectory
from . import output
from .command import OwnCommand
from .completion import complete_run
from .options import ConfigOption, SetOption
from .sizes import bytes_text, size_of

runs = typer.Typer(
    name="runs",
    help="Remove, rename, tag and describe runs; 'flowtune ls runs' lists them.",
    rich_markup_mode=None,
)

RunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The run: its name or path.", autocompletion=complete_run),
]


@runs.command(cls=OwnCommand)
def rm(
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="The runs: their names or paths.", autocompletion=complete_run
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Remove runs for good: checkpoints, adapters and all that they have stored.

    A run that trains is not removed, and then no other one either. One that cannot be read can be.
    """
    directories = list({d.path: d for d in _find(run, config, set_)}.values())
    with ExitStack() as locks:
        for directory in directories:
            if directory.path.is_symlink():
                raise UsageError(
                    f"{directory.path} is a link to {os.path.realpath(directory.path)}:"
                    " name that one, or delete the link by hand"
                )
            locks.enter_context(directory.lock())
        sizes = {d.path: bytes_text(size_of(d.path)) for d in directories}
        if not yes:
            _ask([f"{path} ({size})" for path, size in sizes.items()])
        for directory in directories:
            directory.remove()
            output.note(f"removed run '{directory.path.name}' ({sizes[directory.path]})")


@runs.command(cls=OwnCommand)
def mv(
    run: RunArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its new name.")],
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Rename a run. One that trains is not renamed."""
    [directory] = _find([run], config, set_)
    with directory.lock():
        renamed = directory.rename(name)
    output.note(f"run '{directory.path.name}' is now '{name}', in {renamed.path}")


@runs.command(cls=OwnCommand)
def tag(
    run: RunArgument,
    tags: Annotated[list[str], typer.Argument(metavar="TAG...", help="Its tags.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take these tags away instead.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Give a run tags, by which 'flowtune ls runs --tag TAG' finds it."""
    for each in tags:
        if not re.fullmatch(r"\w[\w.-]*", each):
            raise UsageError(
                f"'{each}' cannot be a tag: use letters, digits, '_', '-' and '.', and start with a"
                " letter or digit."
            )
    [directory] = _find([run], config, set_)

    def change(info: Mapping[str, Any]) -> Mapping[str, Any]:
        before = list(info.get("tags", ()))
        if remove and (missing := [each for each in tags if each not in before]):
            has = ", ".join(before) or "none"
            raise UsageError(
                f"run '{directory.path.name}' has no tag '{missing[0]}'; its tags are: {has}"
            )
        kept = [each for each in before if each not in tags]
        return {"tags": kept if remove else sorted({*before, *tags})}

    directory.change_info(change)
    output.note(f"tags of '{directory.path.name}': {', '.join(directory.info.tags) or 'none'}")


@runs.command(cls=OwnCommand)
def note(
    run: RunArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The note; '' removes it.")],
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write a note beside a run, in place of the one that it has."""
    [directory] = _find([run], config, set_)
    line = " ".join(text.split())
    directory.change_info(lambda info: {"note": line})
    output.note(f"note of '{directory.path.name}': {line or 'none'}")


def _find(
    names: Sequence[str], config: Path | None, overrides: Sequence[str] | None
) -> list[RunDirectory]:
    from ..registry import load_registry
    from .run_overrides import find_run

    registry = load_registry()
    return [find_run(registry, name, config, overrides) for name in names]


def _ask(what: Sequence[str]) -> None:
    """Ask whether these are to be removed; ends the command unless they are."""
    if not sys.stdin.isatty():
        raise UsageError(
            f"to remove {', '.join(what)} without being asked, say --yes: standard input is no"
            " terminal"
        )
    listed = "\n  ".join(["These runs are removed for good:", *what])
    if not typer.confirm(f"{listed}\nRemove them?", err=True):
        raise UsageError("nothing was removed")
