"""Run commands in this process, with the plugins that a test installs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowtune_cli.cli.main import main
from support.disturbed import DISTURBED
from support.installed_plugins import HOPQA, Site
from support.letters_task import LETTERS

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
        """Of a table, without its header."""
        return [line.split("\t") for line in self.out.splitlines()[1:]]


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


@pytest.fixture
def letters(site: Site, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The task "letters" is installed, and the base model is the tiny one."""
    import torch

    site.install("letters", LETTERS)
    monkeypatch.setenv("FLOWTUNE_MODEL__NAME", str(tiny_model_dir))
    monkeypatch.setenv("FLOWTUNE_MODEL__DTYPE", "float32")
    # For so small a model, threads that wait for each other take ten times as long.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield site
    torch.set_num_threads(threads)


@pytest.fixture
def disturbed(site: Site, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The task "letters" on the tiny model, one rank of which may get a signal."""
    site.install("letters", DISTURBED)
    monkeypatch.setenv("FLOWTUNE_MODEL__NAME", str(tiny_model_dir))
    monkeypatch.setenv("FLOWTUNE_MODEL__DTYPE", "float32")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return site
