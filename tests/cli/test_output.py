"""Tables for people, lines for programs."""

from __future__ import annotations

import sys

import pytest

from flowtune_cli.cli.output import note, print_rows

ROWS = [{"name": "a", "text": "two\nlines"}, {"name": "b", "text": "[bold]no markup[/bold]"}]


def test_lines_into_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(["name", "text"], ROWS)
    assert capsys.readouterr().out == "name\ttext\na\ttwo lines\nb\t[bold]no markup[/bold]\n"


def test_a_table_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    print_rows(["text", "name"], ROWS)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["text", "name"]
    assert [line.split() for line in lines] == [
        ["two", "lines", "a"],
        ["[bold]no", "markup[/bold]", "b"],
    ]


def test_notes_are_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    note("x")
    assert capsys.readouterr() == ("", "flowtune: note: x\n")
