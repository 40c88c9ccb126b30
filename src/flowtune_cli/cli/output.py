"""Output of commands: tables on a terminal, tab-separated lines into a pipe, JSON on request."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer

from . import stdout
from .verbosity import is_quiet, is_silent, is_verbose


def print_json(value: Any) -> None:
    """Print a value as JSON; what JSON cannot express, such as a path or NaN, as its ``str``."""
    from ..runs.serialization import json_values

    # In UTF-8 only a lone surrogate is printed as an escape, which is JSON's own.
    ascii_only = codecs.lookup(stdout.stream().encoding or "utf-8").name != "utf-8"
    stdout.write(json.dumps(json_values(value), indent=2, ensure_ascii=ascii_only, allow_nan=False))


def print_rows(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows below a header: as a table on a terminal, otherwise as tab-separated lines."""
    if not stdout.stream().isatty():
        stdout.write("\t".join(columns))
        for row in rows:
            stdout.write("\t".join(_one_line(row[column]) for column in columns))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        # A Text is printed as it is: brackets are not markup.
        table.add_row(*(Text(_one_line(row[column])) for column in columns))
    Console(file=stdout.stream()).print(table)


Styled = tuple[str, str]
"""A line, and its rich style on a terminal."""


def print_styled(lines: Iterable[Styled]) -> None:
    """Print lines without wrapping, so that long ones can be copied."""
    if not stdout.stream().isatty():
        for line, _ in lines:
            stdout.write(line)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stdout.stream())
    for line, style in lines:
        console.print(Text(line, style), soft_wrap=True)


def note(text: str) -> None:
    """Print a message to stderr, unless ``--quiet`` was given."""
    if not is_quiet():
        typer.echo(f"flowtune: note: {text}", err=True)


def detail(text: str) -> None:
    """Print to stderr what helps to find a fault, if ``--verbose`` was given."""
    if is_verbose():
        typer.echo(f"flowtune: {text}", err=True)


def suggest(title: str, commands: Iterable[str]) -> None:
    """Print commands that may come next to stderr, unless ``--quiet`` was given."""
    if not is_quiet():
        typer.echo("\n  ".join([f"{title}:", *commands]), err=True)


def warn(text: str) -> None:
    """Print a warning to stderr."""
    if not is_silent():
        typer.echo(f"flowtune: warning: {text}", err=True)


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())
