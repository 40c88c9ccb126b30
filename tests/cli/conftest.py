"""Run commands in this process, with the plugins that a test installs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from installed_plugins import HOPQA, Site

from flowtune_cli.cli.main import main

COMMAND = """

@hookimpl
def register_commands(register):
    def greet(name: str, loud: bool = False) -> None:
        \"\"\"Say hello.\"\"\"
        print(f"hello {name}".upper() if loud else f"hello {name}")

    register("greet", greet)
"""


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        return [line.split("\t") for line in self.out.splitlines()]


Run = Callable[..., Done]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(tmp_path)
    site = Site(tmp_path, monkeypatch)
    site.install("hop", HOPQA + COMMAND)
    return site


@pytest.fixture
def run(site: Site, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("ls", "tasks")``"""

    def call(*arguments: str) -> Done:
        code = main(arguments)
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return call
